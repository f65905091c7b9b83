"""What is built, and what is known of it: manifest, report, provenance, signatures, trust."""
