"""What makes an integer model more accurate."""
