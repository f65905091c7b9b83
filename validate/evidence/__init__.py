"""Evidence beyond the corpus: is an artifact what its recipe says?"""
