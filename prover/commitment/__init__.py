"""Commitments: place tensors in rows, encode, hash, open."""
