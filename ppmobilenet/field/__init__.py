"""What a board and a program in the field run: the package, its engines, its proof. Neither Paddle nor training."""
