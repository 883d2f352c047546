"""The page pool: ownership, shared prefixes, and eviction of the least recently used pages."""

import pytest

from windrow.scheduler.stepping.pages import PagePool


def publish(pool: PagePool, *keys: str) -> list[int]:
    """Take and publish one page for each key, and give them all back."""
    pages = pool.take(len(keys))
    for page, key in zip(pages, keys, strict=True):
        assert pool.publish(page, key)
    pool.release(pages, len(pages))
    return pages


def test_released_pages_can_be_taken_again() -> None:
    pool = PagePool(4)
    pages = pool.take(4)
    assert sorted(pages) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="1 pages requested, but only 0 of 4 are available"):
        pool.take(1)
    pool.release(pages, 0)
    assert pool.available == 4


def test_a_published_page_is_found_and_shared_and_stays_owned_until_its_last_owner_releases_it() -> None:
    pool = PagePool(4)
    pages = publish(pool, "a", "ab")
    assert pool.match(["a", "ab", "abc"]) == pages
    assert pool.match(["x", "ab"]) == []
    assert pool.count_idle(pages) == 2
    pool.share(pages)
    pool.share(pages[:1])
    assert (pool.available, pool.owners(pages[0]), pool.count_idle(pages)) == (2, 2, 0)
    pool.release(pages, 2)
    assert pool.available == 3
    pool.release(pages[:1], 1)
    assert pool.available == 4


def test_a_key_is_published_once() -> None:
    pool = PagePool(4)
    first, second = pool.take(2)
    assert pool.publish(first, "a")
    assert not pool.publish(second, "a")
    assert pool.match(["a"]) == [first]


def test_the_least_recently_used_page_is_evicted_first_and_the_end_of_a_prefix_before_its_beginning() -> None:
    pool = PagePool(4)
    old = publish(pool, "a", "ab")
    publish(pool, "x", "xy")
    pool.take(1)
    assert pool.match(["a", "ab"]) == old[:1]
    pool.share(old[:1])  # in use again, so no longer the least recently used
    pool.release(old[:1], 1)
    pool.take(2)
    assert pool.match(["x"]) == []
    assert pool.match(["a"]) == old[:1]
