"""What a person looks at: reports, plots, cost."""
