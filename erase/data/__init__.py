"""Images, cached latents, and the stateless batch stream."""
