"""What the papers count: parameters, multiply-adds, published accuracy and latency."""
