"""What a user tests an integration with."""
