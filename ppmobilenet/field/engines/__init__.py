"""The libraries that run a package's forms, one module each, and the pool that lets threads share them."""
