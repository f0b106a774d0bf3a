"""The verbs of expectation-maximisation: align, hold, insert, solve, and what is known of how sure they are."""
