import os
import zipfile

import pytest

from fakeface_jax.data.files import list_files, read_file
from fakeface_jax.data.sources import read_source
from fakeface_jax.errors import ConfigError, DataError, LimitExceeded, OpenError
from fakeface_jax.labels import Label

CIPLAB = {
    "real_and_fake_face/training_real/real_00001.jpg": "real",
    "real_and_fake_face/training_real/real_00002.jpg": "real",
    "real_and_fake_face/training_fake/easy_1_1000.jpg": "fake",
    "real_and_fake_face/training_fake/mid_179_1111.jpg": "fake",
    "real_and_fake_face/training_fake/hard_20_0010.jpg": "fake",
}
JUNK = (
    "__MACOSX/real_and_fake_face/training_real/._real_00001.jpg",
    "__MACOSX/real_and_fake_face/training_real/real_00001.jpg",
    "real_and_fake_face/training_real/._real_00001.jpg",
    "real_and_fake_face/training_real/Thumbs.db",
    "real_and_fake_face/training_real/.DS_Store",
    "real_and_fake_face/training_fake/.ipynb_checkpoints/mid_179_1111-checkpoint.jpg",
    "real_and_fake_face/readme.txt",
    "real_and_fake_face/preview.jpg",
)
KAGGLE_140K = {
    f"real_vs_fake/real-vs-fake/{split}/{word}/{number:05d}.jpg": (word, official)
    for split, official in (("train", "train"), ("valid", "validation"), ("test", "test"))
    for word in ("real", "fake")
    for number in (1, 2)
}


def make(place, names, contents=b"x"):
    """Files below a folder, or in an archive where the place ends in .zip."""
    contents = contents if isinstance(contents, dict) else dict.fromkeys(names, contents)
    if place.suffix == ".zip":
        with zipfile.ZipFile(place, "w") as archive:
            for name in names:
                archive.writestr(name, contents[name])
        return place
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(contents[name] if isinstance(contents[name], bytes) else contents[name].encode())
    return place


def labels(samples):
    return {sample.name: str(sample.label) for sample in samples}


@pytest.fixture(params=["folder", "archive.zip"])
def place(request, tmp_path):
    return tmp_path / request.param


def test_ciplab_is_read_as_downloaded(place):
    make(place, [*CIPLAB, *JUNK])
    samples = read_source(f"ciplab:{place}")
    assert labels(samples) == CIPLAB
    assert [sample.name for sample in samples] == sorted(CIPLAB)
    assert {(sample.source, sample.root, sample.official_split) for sample in samples} == {("ciplab", str(place), "")}
    assert {sample.method for sample in samples if sample.label is Label.FAKE} == {"photoshop"}
    assert {sample.method for sample in samples if sample.label is Label.REAL} == {""}


def test_ciplab_file_names_say_difficulty_and_replaced_parts(place):
    make(place, CIPLAB)
    details = {
        sample.name.split("/")[-1]: (sample.difficulty, sample.parts) for sample in read_source(f"ciplab:{place}")
    }
    assert details == {
        "real_00001.jpg": ("", ""),
        "real_00002.jpg": ("", ""),
        "easy_1_1000.jpg": ("easy", "left_eye"),
        "mid_179_1111.jpg": ("mid", "left_eye+right_eye+nose+mouth"),
        "hard_20_0010.jpg": ("hard", "nose"),
    }


def test_the_second_copy_in_the_ciplab_archive_is_not_read_again(place):
    make(place, [*CIPLAB, *(f"real_and_fake_face_detection/{name}" for name in CIPLAB)])
    assert labels(read_source(f"ciplab:{place}")) == CIPLAB


def test_ciplab_is_read_where_only_the_second_copy_is_there(place):
    nested = {f"real_and_fake_face_detection/{name}": word for name, word in CIPLAB.items()}
    make(place, nested)
    assert labels(read_source(f"ciplab:{place}")) == nested


def test_a_picture_that_only_the_second_copy_of_ciplab_has_is_kept(place):
    extra = "real_and_fake_face_detection/real_and_fake_face/training_real/real_99999.jpg"
    make(place, [*CIPLAB, *(f"real_and_fake_face_detection/{name}" for name in CIPLAB), extra])
    assert labels(read_source(f"ciplab:{place}")) == {**CIPLAB, extra: "real"}


@pytest.mark.parametrize("inner", ["real_and_fake_face", ".", "real_and_fake_face_detection/real_and_fake_face"])
def test_ciplab_may_be_unpacked_to_any_depth(tmp_path, inner):
    make(tmp_path, [f"{inner}/{name.split('/', 1)[1]}" for name in CIPLAB])
    assert sorted(labels(read_source(f"ciplab:{tmp_path}")).values()) == sorted(CIPLAB.values())


def test_ciplab_elsewhere_is_not_in_its_layout(place):
    make(place, ["real/1.jpg", "fake/1.jpg"])
    with pytest.raises(DataError, match="no labelled pictures found"):
        read_source(f"ciplab:{place}")


def csvs_140k(rows=KAGGLE_140K, **changes):
    """The CSVs that Kaggle ships, in which the number 1 means real."""
    tables = {}
    for short, official in (("train", "train"), ("valid", "validation"), ("test", "test")):
        lines = [",original_path,id,label,label_str,path"]
        for index, (name, (word, split)) in enumerate(rows.items()):
            if split == official:
                key = name.split("real-vs-fake/")[1]
                word = changes.get(key.replace("/", "_").replace(".", "_"), word)
                lines.append(f"{index},/kaggle/{key},{index:05d},{int(word == 'real')},{word},{key}")
        tables[f"{short}.csv"] = "\n".join(lines) + "\n"
    return tables


def test_140k_keeps_its_splits_and_takes_labels_from_words(place):
    tables = csvs_140k()
    make(place, [*KAGGLE_140K, *tables], {**dict.fromkeys(KAGGLE_140K, b"x"), **tables})
    samples = read_source(f"140k:{place}")
    assert {sample.name: (str(sample.label), sample.official_split) for sample in samples} == KAGGLE_140K
    assert {sample.method for sample in samples if sample.label is Label.FAKE} == {"stylegan"}


def test_140k_is_read_without_its_csvs(place):
    make(place, KAGGLE_140K)
    assert len(read_source(f"140k:{place}")) == len(KAGGLE_140K)


def test_140k_whose_csv_disagrees_with_the_folder_is_refused(place):
    tables = csvs_140k(valid_fake_00002_jpg="real")
    make(place, [*KAGGLE_140K, *tables], {**dict.fromkeys(KAGGLE_140K, b"x"), **tables})
    with pytest.raises(DataError, match=r"valid/fake/00002\.jpg is in validation/fake, but its CSV says"):
        read_source(f"140k:{place}")


def test_140k_with_missing_pictures_is_refused(place):
    tables = csvs_140k()
    there = [name for name in KAGGLE_140K if not name.endswith("test/real/00001.jpg")]
    make(place, [*there, *tables], {**dict.fromkeys(there, b"x"), **tables})
    with pytest.raises(DataError, match=r"1 files of its CSVs are missing, test/real/00001\.jpg first"):
        read_source(f"140k:{place}")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (b"id,label\n1,1\n", "lacks the columns"),
        (b"path,label_str\ntrain/real/00001.jpg,maybe\n", "maybe"),
        (b"path,label_str\n\xff\xfe\x00,real\n", "cannot be read as CSV"),
        (b'path,label_str\n"open,real\n' + b"x" * 200_000, "cannot be read as CSV"),
    ],
)
def test_140k_with_a_damaged_csv_is_refused(place, table, words):
    make(place, [*KAGGLE_140K, "train.csv"], {**dict.fromkeys(KAGGLE_140K, b"x"), "train.csv": table})
    with pytest.raises(DataError, match=words) as caught:
        read_source(f"140k:{place}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "layout",
    [
        {"real/1.jpg": ("real", ""), "fake/1.jpg": ("fake", "")},
        {"Real/1.JPG": ("real", ""), "Fake/1.JPEG": ("fake", "")},
        {"Real_Vs_Fake/train/real/1.png": ("real", "train"), "Real_Vs_Fake/train/fake/1.png": ("fake", "train")},
        {"Real_Vs_Fake/real/test/1.png": ("real", "test"), "Real_Vs_Fake/fake/valid/1.png": ("fake", "validation")},
        {
            "real_and_fake_face/training_real/1.jpg": ("real", ""),
            "real_and_fake_face/training_fake/easy_7_0001.jpg": ("fake", ""),
        },
    ],
)
def test_uditsharma72_is_read_in_every_plausible_layout(place, layout):
    make(place, layout)
    samples = read_source(f"uditsharma72:{place}")
    assert {sample.name: (str(sample.label), sample.official_split) for sample in samples} == layout
    assert {sample.source for sample in samples} == {"uditsharma72"}


def test_uditsharma72_keeps_the_details_of_ciplab_names(place):
    make(place, ["fake/hard_3_0110.jpg", "fake/other.jpg", "real/real_1.jpg"])
    details = {sample.name: (sample.difficulty, sample.parts) for sample in read_source(f"uditsharma72:{place}")}
    assert details["fake/hard_3_0110.jpg"] == ("hard", "right_eye+nose")
    assert details["fake/other.jpg"] == details["real/real_1.jpg"] == ("", "")


def test_a_folder_source_is_called_after_its_folder(tmp_path):
    make(tmp_path / "my.faces v1.2", ["real/1.jpg", "fake/1.jpg"])
    assert {sample.source for sample in read_source(f"folder:{tmp_path / 'my.faces v1.2'}")} == {"my.faces v1.2"}
    assert {sample.source for sample in read_source(f"folder:{tmp_path / 'my.faces v1.2'}@short")} == {"short"}
    make(tmp_path / "faces.zip", ["real/1.jpg", "fake/1.jpg"])
    assert {sample.source for sample in read_source(f"folder:{tmp_path / 'faces.zip'}")} == {"faces"}


def test_the_current_folder_is_a_source_with_a_name(tmp_path, monkeypatch):
    make(tmp_path / "mine", ["real/1.jpg", "fake/1.jpg"])
    monkeypatch.chdir(tmp_path / "mine")
    assert {sample.source for sample in read_source("folder:.")} == {"mine"}
    monkeypatch.chdir(tmp_path / "mine" / "fake")
    assert labels(read_source("folder:.")) == {"1.jpg": "fake"}


def test_the_nearest_folder_that_says_real_or_fake_decides(place):
    layout = {"fake/real/1.jpg": "real", "real/fake/1.jpg": "fake", "realistic/real/x/y/1.jpg": "real"}
    make(place, [*layout, "surreal/1.jpg", "1.jpg", "fakes/1.jpg"])
    assert labels(read_source(f"folder:{place}")) == layout


def test_folders_below_fake_name_the_method(place):
    methods = {
        "fake/stargan/1.jpg": "stargan",
        "fake/stargan/clip 7/1.jpg": "stargan",
        "fake/test/began/1.jpg": "began",
        "train/fake/pggan/1.jpg": "pggan",
        "fake/train/1.jpg": "",
        "stylegan/fake/1.jpg": "",
        "fake/1.jpg": "",
        "real/flickr/1.jpg": "",
    }
    make(place, methods)
    assert {sample.name: sample.method for sample in read_source(f"folder:{place}")} == methods


def test_a_folder_that_is_itself_called_fake_labels_its_pictures(tmp_path):
    make(tmp_path / "fake", ["a/1.jpg", "2.jpg"])
    samples = read_source(f"folder:{tmp_path / 'fake'}")
    assert labels(samples) == {"a/1.jpg": "fake", "2.jpg": "fake"}
    assert [sample.method for sample in samples] == ["", "a"]


@pytest.mark.parametrize("spec", ["", "folder", "folder:", ":x", "kaggle:x", "Folder:x", "folder:@name"])
def test_what_is_no_source_is_refused_with_the_form_to_write(spec):
    with pytest.raises(ConfigError, match="write KIND:PATH with KIND one of ciplab, 140k"):
        read_source(spec)


@pytest.mark.parametrize("spec", ["ciplab:x@a", "140k:x@a", "folder:x@a,b", "tfds:x@a,b"])
def test_names_that_a_kind_does_not_take_are_refused(spec):
    with pytest.raises(ConfigError, match="after @"):
        read_source(spec)


def test_an_at_sign_in_a_path_belongs_to_the_path(tmp_path):
    make(tmp_path / "me@work" / "faces@home", ["real/1.jpg", "fake/1.jpg"])
    assert {s.source for s in read_source(f"folder:{tmp_path / 'me@work' / 'faces@home'}")} == {"faces@home"}
    assert {s.source for s in read_source(f"folder:{tmp_path / 'me@work' / 'faces@home'}@a")} == {"a"}
    with pytest.raises(DataError, match="me@work/none: no such file"):
        read_source(f"folder:{tmp_path / 'me@work' / 'none'}")


def test_a_colon_in_a_path_belongs_to_the_path(tmp_path):
    make(tmp_path / "a:b", ["real/1.jpg", "fake/1.jpg"])
    assert len(read_source(f"folder:{tmp_path / 'a:b'}")) == 2


def test_sources_that_are_not_there_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match="no such file or directory; download it"):
        read_source(f"ciplab:{tmp_path / 'nowhere.zip'}")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(DataError, match="nor a readable zip archive"):
        read_source(f"ciplab:{tmp_path / 'broken.zip'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no labelled pictures found"):
        read_source(f"folder:{tmp_path / 'empty'}")


def write_csv(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "faces.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return f"csv:{folder / 'faces.csv'}"


def test_a_csv_names_pictures_relative_to_itself_or_absolutely(tmp_path):
    make(tmp_path, ["sub/1.jpg", "2.jpg"], {"sub/1.jpg": b"one", "2.jpg": b"two"})
    absolute = tmp_path / "2.jpg"
    samples = read_source(write_csv(tmp_path, f"path,label\nsub/1.jpg,real\n{absolute},FAKE\n"))
    found = {read_file(sample.root, sample.name): (str(sample.label), sample.source) for sample in samples}
    assert found == {b"one": ("real", "faces"), b"two": ("fake", "faces")}


def test_a_csv_may_state_source_method_group_and_split(tmp_path):
    text = "label,extra,path,source,method,group,split\nfake,?,a.jpg,s1,swap,clip 1,Valid\n0,?,b.jpg,s2,,, test \n"
    first, second = read_source(write_csv(tmp_path, text))
    assert (first.label, first.source, first.method) == (Label.FAKE, "s1", "swap")
    assert (first.hint, first.official_split) == ("clip 1", "validation")
    assert (second.label, second.source, second.hint, second.official_split) == (Label.REAL, "s2", "", "test")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_a_csv_from_a_spreadsheet_is_read(tmp_path, bom, newline):
    text = newline.join(["path,label", '"größe, 1.jpg",real', '"a ""b"".jpg",fake', ""])
    samples = read_source(write_csv(tmp_path, bom + text.encode()))
    assert labels(samples) == {"größe, 1.jpg": "real", 'a "b".jpg': "fake"}


def test_only_the_named_sources_of_a_csv_are_taken(tmp_path):
    spec = write_csv(tmp_path, "path,label,source\na,real,one\nb,fake,two\nc,fake,three\n")
    assert {sample.source for sample in read_source(f"{spec}@one,three")} == {"one", "three"}
    with pytest.raises(DataError, match="has no source four; use one, three, two"):
        read_source(f"{spec}@one,four")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "column 'label' is missing"),
        ("path\na.jpg\n", "column 'label' is missing"),
        ("label,file\nreal,a.jpg\n", "column 'path' is missing"),
        ("path;label\na.jpg;real\n", "is missing"),
        ("path,label\n", "no labelled pictures found"),
        ("path,label\na.jpg,maybe\n", "row 2: 'maybe' is not a label"),
        ("path,label\na.jpg,real\n,fake\n", "row 3 has no path or no label"),
        ("path,label\na.jpg\n", "row 2 has no path or no label"),
        ("path,label,split\na.jpg,real,holdout\n", "row 2: unknown split 'holdout'"),
        (b"path,label\n\xff.jpg,real\n", "cannot be read as CSV"),
    ],
)
def test_a_csv_that_cannot_be_used_says_where_and_why(tmp_path, text, words):
    spec = write_csv(tmp_path, text)
    with pytest.raises(DataError, match=words) as caught:
        read_source(spec)
    assert "faces.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_csv_whose_numbers_mean_the_opposite_is_refused(tmp_path):
    with pytest.raises(DataError, match="row 2: its label 1 is called real"):
        read_source(write_csv(tmp_path, "path,label,label_str\ntrain/real/1.jpg,1,real\n"))


def test_a_csv_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: cannot be read: No such file"):
        read_source(f"csv:{tmp_path / 'none.csv'}")


def test_names_that_point_out_of_an_archive_are_harmless(tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "1.jpg").write_bytes(b"secret")
    (tmp_path / "data").mkdir()
    names = {"../secret/real/1.jpg": b"a", "real/../../secret/1.jpg": b"b", "/etc/fake/1.jpg": b"c", "real/1.jpg": b"d"}
    make(tmp_path / "data" / "evil.zip", names, names)
    before = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    samples = read_source(f"folder:{tmp_path / 'data' / 'evil.zip'}")
    assert {read_file(sample.root, sample.name) for sample in samples} <= {b"a", b"b", b"c", b"d"}
    assert len(samples) == 4
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == before


def test_a_damaged_or_encrypted_member_of_an_archive_is_an_open_error(tmp_path):
    path = tmp_path / "a.zip"
    payload = bytes(range(256)) * 40
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("real/1.jpg", payload)
        start = archive.getinfo("real/1.jpg").header_offset + 30 + len("real/1.jpg")
    assert read_file(str(path), "real/1.jpg") == payload
    whole = path.read_bytes()
    for place, value in ((start + 5, 0xFF), (start, 0x07), (6, 0x01)):
        damaged = bytearray(whole)
        damaged[place] = value
        if place == 6:
            damaged[whole.rindex(b"PK\x01\x02") + 8] = 0x01
        path.write_bytes(damaged)
        os.utime(path, ns=(place, place))
        with pytest.raises(OpenError, match="cannot be read") as caught:
            read_file(str(path), "real/1.jpg")
        assert "real/1.jpg" in str(caught.value)


def test_an_archive_that_was_downloaded_again_is_read_again(tmp_path):
    path = make(tmp_path / "a.zip", ["real/1.jpg"], b"old")
    assert read_file(str(path), "real/1.jpg") == b"old"
    make(tmp_path / "b.zip", ["real/1.jpg"], b"newer").replace(path)
    assert read_file(str(path), "real/1.jpg") == b"newer"


def test_files_that_are_missing_are_open_errors(place):
    make(place, ["real/1.jpg"])
    with pytest.raises(OpenError, match=r"real/2\.jpg"):
        read_file(str(place), "real/2.jpg")


def test_a_member_too_large_to_be_a_picture_is_not_unpacked(tmp_path, monkeypatch):
    from fakeface_jax.data import files

    monkeypatch.setattr(files, "MAX_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("real/1.jpg", bytes(10**6))
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "1.jpg").write_bytes(bytes(1001))
    for root in (tmp_path / "bomb.zip", tmp_path):
        with pytest.raises(LimitExceeded):
            read_file(str(root), "real/1.jpg")


def test_links_are_followed_and_circles_end(tmp_path):
    make(tmp_path / "elsewhere", ["1.jpg"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "real").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data")
    assert list_files(str(tmp_path / "data")) == ["real/1.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path):
    make(tmp_path, ["real/1.jpg", "fake/1.jpg"])
    (tmp_path / "fake").chmod(0)
    try:
        with pytest.raises(DataError, match="cannot be listed"):
            list_files(str(tmp_path))
    finally:
        (tmp_path / "fake").chmod(0o700)


def test_the_shared_archives_are_read_completely(shared_data):
    ciplab = read_source(f"ciplab:{shared_data / 'ciplab'}")
    assert (len(ciplab), sum(sample.label is Label.FAKE for sample in ciplab)) == (2041, 960)
    official = read_source(f"140k:{shared_data / '140k'}")
    assert (len(official), sum(sample.label is Label.FAKE for sample in official)) == (2200, 1100)
    assert {sample.official_split for sample in official} == {"train", "validation", "test"}
