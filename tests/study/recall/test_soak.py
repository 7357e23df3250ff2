"""A short soak: the archive reaches its limit and stays there, and every row recalls."""

from kvlib.lab.study.recall.soak import soak


def test_the_archive_reaches_its_limit_and_stays_there(model, processor, tmp_path):
    found = soak(model, processor, tmp_path / "archive", chunks=60, kept=20, every=10)
    assert found["chunk"].tolist() == [10, 20, 30, 40, 50, 60]
    assert found["failure"].eq("").all()
    assert found["recalled"].eq(2).all()
    late = found[found["chunk"] >= 30]
    for column in ("archived_chunks", "archived_bytes", "cache_bytes", "folder_files"):
        assert late[column].nunique() == 1, column
    assert late["archived_chunks"].iloc[0] == 17, "room for 320 tokens: the first chunk of 54, and 16 of 16"
    assert late["folder_bytes"].max() <= 1.05 * late["folder_bytes"].min()
    assert found["archived_chunks"].iloc[0] == 10
