"""Data: the digits, a user's own files, what is wrong with them, and batches by number."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from discdiff.train.data import Categories, Counts, Reals, Split, digits
from discdiff.train.describe import Description
from discdiff.train.encoding import AsCategories, AsCounts, AsDensity, AsReals, AsTable
from discdiff.train.files import read
from discdiff.train.stream import Stream, rows_of_step


def test_digits_are_split_as_stated():
    data = digits()
    order = np.random.default_rng(0).permutation(1797)
    assert data.values.shape == (1797, 8, 8)
    assert data.kind == Counts(16)
    assert data.values.max() == 16
    np.testing.assert_array_equal(data.split.train, order[:1350])
    np.testing.assert_array_equal(data.split.validate, order[1350:1500])
    np.testing.assert_array_equal(data.split.held_out, order[1500:])
    assert len(data.split.held_out) == 297


def test_binary_digits():
    data = digits(binary=True)
    assert data.kind == Counts(1)
    assert torch.equal(data.values, (digits().values >= 8).long())


def test_usual_split_covers_everything_once():
    split = Split.usual(120, "x")
    assert (len(split.train), len(split.validate), len(split.held_out)) == (90, 10, 20)
    every = np.concatenate([split.train, split.validate, split.held_out])
    np.testing.assert_array_equal(np.sort(every), np.arange(120))


def test_too_few_items_are_refused(tmp_path):
    path = tmp_path / "few.npy"
    np.save(path, np.zeros((3, 2), dtype=np.int64))
    with pytest.raises(ValueError, match=r"few.npy: 3 items"):
        read(str(path))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_integer_arrays_are_counts(tmp_path, dtype):
    values = np.arange(40).reshape(20, 2).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    data = read(str(tmp_path / "a.npy"))
    assert data.kind == Counts(39)
    np.testing.assert_array_equal(data.values.numpy(), values)


def test_boolean_arrays_are_binary(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(20, dtype=bool))
    assert read(str(tmp_path / "a.npy")).kind == Counts(1)


def test_real_arrays_say_where_the_first_fraction_is(tmp_path):
    values = np.ones((20, 2))
    values[3, 1] = 0.5
    np.save(tmp_path / "a.npy", values)
    kind = read(str(tmp_path / "a.npy")).kind
    assert isinstance(kind, Reals)
    assert "row 3, column 1: 0.5" in kind.example


@pytest.mark.parametrize(
    ("value", "rule"),
    [(np.nan, "no finite number"), (np.inf, "no finite number"), (-2, "negative")],
)
def test_bad_entries_of_arrays_are_named(tmp_path, value, rule):
    values = np.ones((20, 2, 3))
    values[7, 1, 2] = value
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ValueError, match=rf"a.npy: row 7, column 1, 2: .*{rule}"):
        read(str(tmp_path / "a.npy"))


def test_truncated_and_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(4000).reshape(100, 40))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a.npy cannot be read"):
        read(str(tmp_path / "a.npy"))
    np.save(tmp_path / "b.npy", np.array([{"a": 1}] * 20, dtype=object))
    with pytest.raises(ValueError, match=r"b.npy cannot be read"):
        read(str(tmp_path / "b.npy"))


def test_npz_with_labels(tmp_path):
    labels = np.array(["cat", "dog"] * 10)
    np.savez(tmp_path / "a.npz", x=np.ones((20, 4), dtype=int), y=labels)
    data = read(str(tmp_path / "a.npz"))
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 1] * 10


def test_arrays_under_the_wrong_ending_are_named(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((20, 4)))
    np.savez(tmp_path / "b.npz", x=np.ones((20, 4)))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    (tmp_path / "b.npz").rename(tmp_path / "b.npy")
    for name, ending in (("a.npz", ".npy"), ("b.npy", ".npz")):
        with pytest.raises(ValueError, match=rf"{name} cannot be read: .*; name it {ending}"):
            read(str(tmp_path / name))


def test_npz_without_x_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", p=np.ones(20), q=np.ones(20))
    with pytest.raises(ValueError, match=r"\['p', 'q'\]"):
        read(str(tmp_path / "a.npz"))


def write(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_csv_with_header_and_labels(tmp_path):
    lines = ["a,label,b", *[f"{i},{'xy'[i % 2]},{2 * i}" for i in range(20)]]
    data = read(write(tmp_path / "t.csv", lines))
    assert data.columns == ("a", "b")
    assert data.classes == ("x", "y")
    assert data.values[3].tolist() == [3, 6]
    assert data.kind == Counts(38)


@pytest.mark.parametrize("lines", [["label,a,b"], ["a,label,b"]])
def test_a_byte_order_mark_is_no_part_of_a_table(tmp_path, lines):
    text = "\r\n".join([*lines, *[f"{i % 2},{i % 2},7" for i in range(20)]])
    (tmp_path / "t.csv").write_bytes(text.encode("utf-8-sig"))
    data = read(str(tmp_path / "t.csv"))
    assert data.columns == ("a", "b")
    assert data.classes == ("0", "1")
    assert data.values.shape == (20, 2)


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
    (tmp_path / "t.txt").write_bytes(("abc " * 300).encode("utf-8-sig"))
    assert read(str(tmp_path / "t.txt")).kind.vocabulary == " abc"
    (tmp_path / "u.txt").write_bytes(("1 2\n" * 30).encode("utf-8-sig"))
    assert read(str(tmp_path / "u.txt")).kind == Categories(3)


@pytest.mark.parametrize("labels", [[0.0, np.nan, 1.0], ["a", "", "b"], ["a", "nan", "b"]])
def test_missing_labels_of_arrays_are_named(tmp_path, labels):
    np.savez(tmp_path / "a.npz", x=np.ones((30, 4), dtype=int), y=np.array(labels * 10))
    with pytest.raises(ValueError, match=r"a.npz: row 1: '(nan)?' is no label; row 4: "):
        read(str(tmp_path / "a.npz"))


def test_labels_of_other_kinds_are_refused(tmp_path):
    labels = np.array(["2020-01-01", "NaT"] * 10, dtype="datetime64[D]")
    np.savez(tmp_path / "a.npz", x=np.ones((20, 4), dtype=int), y=labels)
    with pytest.raises(ValueError, match=r"a.npz: labels must be numbers or names"):
        read(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("label", ["", "nan", " NaN"])
def test_missing_labels_of_tables_are_named(tmp_path, label):
    lines = ["a,label", *["1,x"] * 3, f"2,{label}", *["1,y"] * 20]
    with pytest.raises(ValueError, match=r"t.csv: row 5, column label: '.*' is no label"):
        read(write(tmp_path / "t.csv", lines))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("a,b,a", "row 1: columns 1 and 3 are both named a"),
        ("label,a,label", "row 1: columns 1 and 3 are both named label"),
        (",a,b", "row 1: column 1 has no name"),
    ],
)
def test_headers_name_every_column_once(tmp_path, header, message):
    with pytest.raises(ValueError, match=f"t.csv: {message}"):
        read(write(tmp_path / "t.csv", [header, *["1,2,3"] * 20]))


@pytest.mark.parametrize("word", ["1_0", "١", "nan", "inf"])
@pytest.mark.parametrize("row", [1, 7])
def test_only_plain_numbers_are_numbers(tmp_path, word, row):
    lines = ["1"] * 20
    lines[row - 1] = word
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match=f"t.csv: row {row}, column 1: '{word}' is no finite"):
        read(str(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["label", *"ab" * 10], "holds no column but label"),
        (["a,b"], "holds a header but no rows"),
    ],
)
def test_tables_without_data_are_refused(tmp_path, lines, message):
    with pytest.raises(ValueError, match=f"t.csv {message}"):
        read(write(tmp_path / "t.csv", lines))


@pytest.mark.parametrize(
    ("value", "dtype", "rule"),
    [
        (2**63, np.uint64, r"9223372036854775808 is too large: .* below 2\^63"),
        (2**64 - 1, np.uint64, r"18446744073709551615 is too large"),
        (2**53, np.float64, r"9.0072e\+15 is too large: .* below 2\^53"),
        (1e300, np.float64, r"1e\+300 is too large"),
    ],
)
def test_integers_too_large_to_tell_apart_are_named(tmp_path, value, dtype, rule):
    values = np.ones((20, 2), dtype=dtype)
    values[7, 1] = value
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ValueError, match=rf"a.npy: row 7, column 1: {rule}"):
        read(str(tmp_path / "a.npy"))


@pytest.mark.parametrize("word", [str(2**63), "9" * 30])
def test_tokens_too_large_are_named(tmp_path, word):
    with pytest.raises(ValueError, match=rf"t.txt: row 3, column 2: {word} is too large"):
        read(write(tmp_path / "t.txt", ["1 2", "4 5", f"1 {word}", *["1 2"] * 20]))


def test_csv_without_header(tmp_path):
    data = read(write(tmp_path / "t.csv", [f"{i},{i}" for i in range(20)]))
    assert data.values.shape == (20, 2)
    assert data.columns == ()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("1,x", r"row 5, column b: 'x'"),
        ("1,", r"row 5, column b: ''"),
        ("1,nan", r"row 5, column b: 'nan'"),
        ("1,2,3", r"row 5: 3 columns, not 2"),
        ("1,-4", r"row 5, column b: -4 is a negative count"),
    ],
)
def test_bad_rows_of_tables_are_named(tmp_path, bad, message):
    lines = ["a,b", *["1,2"] * 3, bad, *["1,2"] * 20]
    with pytest.raises(ValueError, match=rf"t.csv: .*{message}"):
        read(write(tmp_path / "t.csv", lines))


def test_many_faults_are_cut_short(tmp_path):
    with pytest.raises(ValueError, match="and more") as caught:
        read(write(tmp_path / "t.csv", ["a,b", "1,2", *["1,?"] * 30]))
    assert str(caught.value).count("row") == 5


def test_token_file(tmp_path):
    data = read(write(tmp_path / "t.txt", [f"{i} {i + 1} 0" for i in range(20)]))
    assert data.kind == Categories(21)
    assert data.values[4].tolist() == [4, 5, 0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [("1 2", r"row 3: 2 tokens, not 3"), ("1 x 2", r"row 3, column 2: 'x'"), ("1 -1 2", "'-1'")],
)
def test_bad_token_rows_are_named(tmp_path, bad, message):
    with pytest.raises(ValueError, match=rf"t.txt: .*{message}"):
        read(write(tmp_path / "t.txt", ["1 2 3", "4 5 6", bad, *["1 2 3"] * 20]))


def test_characters_keep_their_vocabulary(tmp_path):
    (tmp_path / "t.txt").write_text("hello world " * 30)
    data = read(str(tmp_path / "t.txt"), length=12)
    assert data.values.shape == (30, 12)
    assert "".join(data.kind.vocabulary[c] for c in data.values[0]) == "hello world "


def test_binary_and_empty_text_are_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00abc")
    (tmp_path / "b.txt").write_text("\n \n")
    for name in ("a.txt", "b.txt"):
        with pytest.raises(ValueError, match=name):
            read(str(tmp_path / name))


def save_images(folder, count=12, size=(5, 4), mode="L"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new(mode, size, i if mode == "L" else (i, 0, 7)).save(folder / f"{i:02}.png")


def test_image_folder_with_classes(tmp_path):
    save_images(tmp_path / "cats")
    save_images(tmp_path / "dogs")
    data = read(str(tmp_path))
    assert data.values.shape == (24, 4, 5)
    assert data.kind == Counts(255)
    assert data.classes == ("cats", "dogs")


def test_colour_images_have_channels_first(tmp_path):
    save_images(tmp_path / "c", mode="RGB")
    data = read(str(tmp_path / "c"))
    assert data.values.shape == (12, 3, 4, 5)
    assert data.values[3, :, 0, 0].tolist() == [3, 0, 7]
    assert data.labels is None


def test_odd_images_are_named(tmp_path):
    save_images(tmp_path)
    Image.new("L", (6, 4)).save(tmp_path / "odd.png")
    Image.new("RGB", (5, 4)).save(tmp_path / "tint.png")
    with pytest.raises(ValueError, match=r"odd.png: 6×4 L.*tint.png: 5×4 RGB"):
        read(str(tmp_path))


def test_damaged_images_are_named(tmp_path):
    save_images(tmp_path)
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "png")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:500])
    with pytest.raises(ValueError, match=r"cut.png cannot be read"):
        read(str(tmp_path))


@pytest.mark.parametrize("name", ["nothing.npy", "folder", "a.docx"])
def test_unknown_sources_are_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(ValueError, match=name):
        read(str(tmp_path / name))


def test_encodings_invert():
    values = torch.randint(17, (50, 6))
    torch.manual_seed(0)
    for encoding in (AsCounts(), AsCategories(18), AsReals(17)):
        assert torch.equal(encoding.decode(encoding.encode(values)), values)
    reals = torch.randn(50, 6).double()
    density = AsDensity(reals.mean(0), reals.std(0))
    torch.testing.assert_close(
        density.decode(density.encode(reals)).double(), reals, atol=1e-6, rtol=0
    )


def test_dequantisation_scores_integers():
    """A density that is 1 / 2 on [−1, 1] gives each of 17 values the probability 1 / 17."""
    log_probability = 6 * np.log(1 / 2) + AsReals(17).log_scale((6,))
    assert log_probability == pytest.approx(-6 * np.log(17))


def test_standardised_reals_score_densities():
    std = torch.tensor([2.0, 5.0])
    assert AsDensity(torch.zeros(2), std).log_scale((2,)) == pytest.approx(-np.log(10))


def test_tables_encode_by_column():
    table = AsTable({"a": AsCounts(), "b": AsCategories(4)})
    values = torch.tensor([[2, 3], [7, 1]])
    state = table.encode(values)
    assert state["a"].tolist() == [2.0, 7.0]
    assert state["b"].dtype == torch.int64
    assert torch.equal(table.decode(state).long(), values)
    assert table.shape(5, (2,)) == {"a": (5,), "b": (5,)}


def test_descriptions_survive_a_checkpoint(tmp_path):
    write(tmp_path / "t.csv", ["a,b,label", *[f"{i},{i / 3},x" for i in range(20)]])
    description = Description.of(read(str(tmp_path / "t.csv")))
    torch.save(description.state(), tmp_path / "d.pt")
    found = Description.from_state(torch.load(tmp_path / "d.pt", weights_only=True))
    assert found.columns["a"].kind == Counts(19)
    assert isinstance(found.columns["b"].kind, Reals)
    assert (found.event, found.classes, found.digest) == ((2,), ("x",), description.digest)
    assert torch.equal(found.std, description.std)


def test_batches_depend_on_seed_and_number_only():
    data = digits()
    one, two = Stream(data, 3, 32), Stream(data, 3, 32)
    later = [two[n] for n in (50, 7)]
    for n, (m, values, labels) in zip((50, 7), later, strict=True):
        again = one[n]
        assert again[0] == m == n
        assert torch.equal(again[1], values)
        assert torch.equal(again[2], labels)
    assert not torch.equal(Stream(data, 4, 32)[7][1], one[7][1])


def test_every_item_comes_once_per_pass():
    rows = np.concatenate([rows_of_step(0, n, 50, 15) for n in range(10)])
    for e in range(3):
        assert sorted(rows[50 * e : 50 * (e + 1)]) == list(range(50))
    assert rows[:50].tolist() != rows[50:100].tolist()


def test_devices_share_a_batch():
    data = digits()
    whole = Stream(data, 0, 32)[5][1]
    shares = [Stream(data, 0, 32, rank, 2)[5][1] for rank in range(2)]
    assert torch.equal(whole[::2], shares[0])
    assert torch.equal(whole[1::2], shares[1])
