"""`vit-edge replay`: sends golden samples through an inference server and judges its outputs."""
