"""Where two models part, which few groups it takes, and how to see it again."""
