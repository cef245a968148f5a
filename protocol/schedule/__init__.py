"""The protocol as the verifier runs it; counting, proving and verifying are this one code path over a channel."""
