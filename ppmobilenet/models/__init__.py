"""The networks: each family file imports only paddle and can be copied alone."""
