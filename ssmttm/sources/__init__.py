"""Where tracks come from: folders, published corpora, tags, licences, captions made."""
