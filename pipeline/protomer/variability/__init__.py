"""Linear modes in which a particle varies, at known poses, and where on them each image lies."""
