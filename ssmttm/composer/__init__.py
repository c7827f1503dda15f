"""The embedded corpus: pieces, words, rendering."""
