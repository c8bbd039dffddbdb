"""What is added: the noise itself. Needs torch alone."""
