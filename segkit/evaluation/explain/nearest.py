"""Which categories and products are like a product, by the words that they share (TF-IDF, cosine)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from segkit.core.models import OUT_OF_SCOPE
from segkit.evaluation.agreement import placements
from segkit.runs.run import Run


def category_similarity(run: Run, products: Sequence[int] | None = None) -> pd.DataFrame:
    """Return how like the names and definitions of the categories titles are: a row a product, a column a category.

    From 0 (no word in common) to 1; `products` are ids, all of the run if they are not given.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    taxonomies, titles = run.result("taxonomies"), _titles(run)
    named = taxonomies[taxonomies["category_name"] != OUT_OF_SCOPE]
    names = named["category_name"].tolist()
    chosen = titles if products is None else titles.loc[list(products)]
    texts = [f"{name} {definition}" for name, definition in zip(names, named["definition"], strict=True)]
    if not any(map(_has_words, texts)):
        return pd.DataFrame(0.0, index=chosen.index, columns=names)
    vectors = TfidfVectorizer(sublinear_tf=True).fit([*texts, *titles])
    similar = vectors.transform(chosen) @ vectors.transform(texts).T
    return pd.DataFrame(similar.toarray(), index=chosen.index, columns=names)


def similar_elsewhere(run: Run, product_id: int, count: int = 2) -> pd.DataFrame:
    """List the products in other categories whose titles are most like that of a product, the most similar first.

    The columns are `product_id`, `title`, `category` and `similarity` (above 0, at most 1).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    titles, placed = _titles(run), placements(run)
    columns = ["product_id", "title", "category", "similarity"]
    if not _has_words(titles[product_id]):
        return pd.DataFrame(columns=columns)
    vectors = TfidfVectorizer(sublinear_tf=True).fit_transform(titles)
    own = vectors[titles.index.get_loc(product_id)]
    frame = pd.DataFrame({"title": titles, "category": placed.reindex(titles.index).fillna("")})
    frame["similarity"] = (vectors @ own.T).toarray().ravel()
    elsewhere = frame[
        (frame["category"] != "") & (frame["category"] != placed[product_id]) & (frame["similarity"] > 0)
    ]
    found = elsewhere.sort_values("similarity", ascending=False, kind="stable").head(count)
    return pd.DataFrame(found.rename_axis("product_id").reset_index(), columns=columns)


def _titles(run: Run) -> pd.Series:
    return run.products.set_index("product_id")["title"].fillna("").astype("str")


def _has_words(text: str) -> bool:
    """Report whether a text has a word of two letters or more, which is what the vectors are made of."""
    return any(len(word) > 1 for word in "".join(c if c.isalnum() else " " for c in text).split())
