"""Training of supernets: objectives, the loop, what they need beside torch."""
