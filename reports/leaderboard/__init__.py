"""A leaderboard made from stored rows alone: statistics, files, static pages."""
