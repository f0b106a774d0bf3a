export {
  WebGLRenderer, Scene, PerspectiveCamera, Group, Mesh, BufferGeometry, BufferAttribute, MeshStandardMaterial,
  DirectionalLight, HemisphereLight, Vector3, DoubleSide, FrontSide,
} from "three";
export { OrbitControls } from "three/addons/controls/OrbitControls.js";
