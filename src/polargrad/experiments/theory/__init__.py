"""The paper's theorems and what follows from them, checked with numbers."""
