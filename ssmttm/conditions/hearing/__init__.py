"""What audio tells of beats, harmony, parts and texture, for music that nobody wrote a score of."""
