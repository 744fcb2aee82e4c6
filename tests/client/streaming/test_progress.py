"""The bar of a stream."""

from groupconv.streaming.progress import Bar, Progress


def test_a_bar_counts_the_bytes_of_the_file_and_says_what_it_waits_for(capsys):
    bar = Bar(size=2 * 2**20)
    bar(Progress(rows=10, of=40, received=2**22, seconds=1.0))
    bar.show("server away, retrying for 60 s")
    shown = capsys.readouterr().err
    assert "512k/2.00M" in shown
    assert "server away, retrying for 60 s" in shown.splitlines()[-1]
    bar(Progress(rows=40, of=40, received=2**24, seconds=2.0))
    bar.close()
    last = capsys.readouterr().err.split("\r")[-1]
    assert "2.00M/2.00M" in last
    assert "away" not in last
