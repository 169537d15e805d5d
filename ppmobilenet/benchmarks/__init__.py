"""How fast this machine trains, reads photos and answers."""
