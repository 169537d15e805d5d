"""A photo file -> the network's input, as a board computes it: no Paddle, no configuration."""
