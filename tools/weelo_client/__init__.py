"""Small clients of the apps' interfaces: for the tests, the demo, and as examples to read."""
