"""The numbers of `eda.describe` worked by hand on generated files, and the parts of the figures of `eda.figures`."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.data.pictures import UnreadableImageError
from src.data.tables import Classes, index_mvtec
from src.eda import defect_figures, describe, figures
from src.eda import defects as defects_module

CLASSES = Classes(("grain_off", "non_defective", "pinhole"), "non_defective")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def one_row(path):
    table = pd.DataFrame({"path": [str(path)], "file": [path.name], "label": ["pinhole"]})
    return describe.describe_images(table).iloc[0]


# -- one image ------------------------------------------------------------------------------------------


def test_colour_image_by_hand(tmp_path):
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[:, :2] = (200, 100, 0)  # the other half is black
    Image.fromarray(pixels).save(tmp_path / "a.png")
    row = one_row(tmp_path / "a.png")
    assert (row["width"], row["height"], row["mode"], row["format"]) == (4, 2, "RGB", "PNG")
    assert row["bytes"] == (tmp_path / "a.png").stat().st_size
    assert (row["red"], row["green"], row["blue"]) == (100, 50, 0)
    assert (row["red_std"], row["green_std"], row["blue_std"]) == (100, 50, 0)
    grey = round(0.299 * 200 + 0.587 * 100)  # 118
    assert row["brightness"] == row["contrast"] == grey / 2
    assert row["problem"] == ""


def test_grey_image_has_three_equal_channels(tmp_path):
    Image.fromarray(np.array([[10, 30]], np.uint8)).save(tmp_path / "a.png")
    row = one_row(tmp_path / "a.png")
    assert row["mode"] == "L"
    assert row["brightness"] == row["red"] == row["green"] == row["blue"] == 20
    assert row["contrast"] == row["blue_std"] == 10


def test_transparent_image_lies_on_white(tmp_path):
    pixels = np.array([[[0, 0, 0, 0], [0, 0, 0, 255]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    row = one_row(tmp_path / "a.png")
    assert row["mode"] == "RGBA"
    assert row["brightness"] == row["contrast"] == 127.5


def test_cmyk_image_is_converted(tmp_path):
    Image.new("CMYK", (8, 8), (0, 0, 0, 255)).save(tmp_path / "a.jpg", quality=100)
    row = one_row(tmp_path / "a.jpg")
    assert (row["mode"], row["format"]) == ("CMYK", "JPEG")
    assert row["brightness"] < 3


def test_16_bit_image_keeps_its_brightness(tmp_path):
    Image.fromarray(np.array([[0, 65535], [0, 65535]], np.uint16)).save(tmp_path / "a.png")
    row = one_row(tmp_path / "a.png")
    assert row["mode"] == "I;16"
    assert row["brightness"] == row["contrast"] == 127.5


def test_exif_rotation_gives_the_upright_size_and_is_told(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.effect_noise((40, 20), 50).save(tmp_path / "a.jpg", exif=exif)
    row = one_row(tmp_path / "a.jpg")
    assert (row["width"], row["height"]) == (20, 40)
    assert row["problem"] == "turned by EXIF (orientation 6)"


def test_wrong_extension_and_single_colour_are_both_told(tmp_path):
    Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "a.jpg", format="PNG")
    row = one_row(tmp_path / "a.jpg")
    assert row["format"] == "PNG"
    assert row["problem"] == "the file is PNG, its name says .jpg; one single colour"


@pytest.mark.parametrize("content", ["truncated", "text", "empty", "missing"])
def test_unreadable_file_is_told_without_its_folder(tmp_path, content):
    path = tmp_path / "a.jpg"
    Image.effect_noise((64, 48), 50).save(path)
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:-300])
    elif content == "missing":
        path.unlink()
    else:
        path.write_text("no image" if content == "text" else "")
    row = one_row(path)
    assert row["problem"].startswith("unreadable: ")
    assert str(tmp_path) not in row["problem"]
    assert np.isnan(row["brightness"])
    assert (row["width"] == 64) if content == "truncated" else pd.isna(row["width"])
    assert pd.isna(row["bytes"]) == (content == "missing")


# -- tables of images -----------------------------------------------------------------------------------


@pytest.fixture
def described(tmp_path):
    """Two classes: pinhole in grey 50 to 52, grain_off in grey 150 to 152, one picture of another size, one broken."""
    rows = []
    for label, level in (("grain_off", 150), ("pinhole", 50)):
        for number in range(3):
            path = tmp_path / f"{label}_{number}.png"
            pixels = np.full((10, 10, 3), level + number, np.uint8)
            pixels[0, 0] = 0
            Image.fromarray(pixels).save(path)
            rows.append((str(path), path.name, label))
    Image.effect_noise((20, 10), 60).convert("RGB").save(rows[2][0])
    with open(rows[5][0], "wb") as file:
        file.write(b"broken")
    table = pd.DataFrame(rows, columns=["path", "file", "label"], index=range(10, 16))
    return describe.describe_images(table)


def test_odd_files(described):
    odd = describe.odd_files(described)
    assert odd["file"].tolist() == ["grain_off_2.png", "pinhole_2.png"]
    assert odd["problem"].tolist() == ["odd size: 20x10, usual is 10x10", "unreadable: no known image format"]
    assert described.index.tolist() == list(range(10, 16))


def test_no_size_is_odd_without_a_majority(tmp_path):
    for side in (4, 5):
        Image.effect_noise((side, side), 50).save(tmp_path / f"{side}.png")
    table = pd.DataFrame({"path": sorted(map(str, tmp_path.iterdir()))})
    assert describe.describe_images(table)["problem"].tolist() == ["", ""]


def test_counts(described):
    counts = describe.count_classes(described)
    assert counts.to_dict() == {"grain_off": 3, "pinhole": 3}
    sizes = describe.count_sizes(described)  # the broken file has none
    assert sizes.index.tolist() == [("10x10", "PNG", "RGB"), ("20x10", "PNG", "RGB")]
    assert sizes["all"].tolist() == [4, 1]
    assert sizes.loc[("20x10", "PNG", "RGB"), ["grain_off", "pinhole"]].tolist() == [1, 0]


def test_class_share_of_variance_by_hand():
    columns = ["brightness", "contrast", "red", "green", "blue"]
    table = pd.DataFrame({"label": ["a", "a", "b", "b"]} | dict.fromkeys(columns, [0.0, 2.0, 4.0, 6.0]))
    table["contrast"] = [1.0, 3.0, 1.0, 3.0]  # same mean in both classes
    table["red"] = [1.0, 1.0, 5.0, 5.0]
    table["blue"] = 7.0
    shares = describe.class_share_of_variance(table)
    assert shares["brightness"] == pytest.approx(4 / 5)  # between the means 1 and 5: 4; in all: 5
    assert shares["contrast"] == pytest.approx(0)
    assert shares["red"] == pytest.approx(1)
    assert shares["blue"] == 0  # all alike
    pd.testing.assert_series_equal(shares, describe.class_share_of_variance(table.sample(frac=1, random_state=0)))


def test_empty_table_is_refused():
    with pytest.raises(ValueError, match="empty"):
        describe.describe_images(pd.DataFrame({"path": []}))


def test_examples_stand_at_even_steps(tmp_path):
    for level in range(5):
        Image.new("RGB", (8, 4), (level, 0, 0)).save(tmp_path / f"{level}.png")
    table = pd.DataFrame({"path": sorted(map(str, tmp_path.iterdir())), "label": ["a"] * 4 + ["b"]})
    pictures = describe.example_pictures(table, by="label", number=2, side=3)
    assert [p[0, 0, 0] for p in pictures["a"]] == [0, 3]
    assert len(pictures["b"]) == 1
    assert pictures["b"][0].shape == (3, 3, 3)
    (tmp_path / "0.png").write_text("broken")
    with pytest.raises(UnreadableImageError):
        describe.example_pictures(table, by="label", number=2)


# -- MVTec AD -------------------------------------------------------------------------------------------


@pytest.fixture
def mvtec(tmp_path):
    """100 x 100 pictures of grey 100; ``cut``: a square of 20 x 20 of grey 140; ``glue``: two corners that touch."""
    home = tmp_path / "leather"
    for folder, level in (("train/good", 100), ("test/good", 100), ("test/cut", 100), ("test/glue", 90)):
        (home / folder).mkdir(parents=True)
        for number in range(2):
            pixels = np.full((100, 100), level, np.uint8)
            pixels[::2] += number  # stripes, brighter in the second picture
            mask = np.zeros((100, 100), np.uint8)
            if folder == "test/cut":
                mask[40:60, 40:60] = 255
                pixels[mask > 0] = 140
            if folder == "test/glue":
                mask[0:10, 0:10] = mask[10:20, 10:20] = 255
                mask[80:90, 80 : 80 + 10 * number] = 255
            Image.fromarray(pixels).save(home / folder / f"{number:03d}.png")
            if not folder.endswith("good"):
                truth = home / "ground_truth" / folder.split("/")[1]
                truth.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(truth / f"{number:03d}_mask.png")
    return tmp_path


def test_mvtec_counts(mvtec):
    counts = defects_module.count_images(index_mvtec(mvtec))
    assert counts.index.tolist() == ["good", "cut", "glue"]
    assert counts["train"].tolist() == [2, 0, 0]
    assert counts["test"].tolist() == [2, 2, 2]


def test_defects_by_hand(mvtec):
    defects = defects_module.describe_defects(index_mvtec(mvtec))
    assert defects["file"].tolist() == [
        f"test/{kind}/{number:03d}.png" for kind in ("cut", "glue") for number in (0, 1)
    ]
    assert defects["area"].tolist() == [400, 400, 200, 300]
    assert defects["area_percent"].tolist() == [4, 4, 2, 3]
    assert defects["regions"].tolist() == [1, 1, 1, 2]  # a shared corner joins
    difference, ratio = defects["brightness_difference"].to_numpy(), defects["contrast_ratio"].to_numpy()
    np.testing.assert_allclose(difference[:3], [40, 39.5, 0], atol=1e-4)
    assert np.isnan(ratio[0])  # nothing varies around the first one
    assert ratio[1] == 0  # the square is smooth, the stripes around it are not
    compared = defects_module.compare_defects(defects)
    assert compared["median_area"].tolist() == [400, 250]
    assert compared["images"].tolist() == [2, 2]


@pytest.mark.parametrize("level", [0, 255])
def test_empty_and_full_masks_have_no_surroundings(mvtec, level):
    Image.new("L", (100, 100), level).save(mvtec / "leather" / "ground_truth" / "cut" / "000_mask.png")
    row = defects_module.describe_defects(index_mvtec(mvtec)).iloc[0]
    assert row["area_percent"] == (100 if level else 0)
    assert row["regions"] == (1 if level else 0)
    assert np.isnan(row["brightness_difference"])
    assert np.isnan(row["contrast_ratio"])


def test_defects_need_masks_that_fit(mvtec):
    table = index_mvtec(mvtec)
    with pytest.raises(ValueError, match="no defective image"):
        defects_module.describe_defects(table[table["defect"] == "good"])
    Image.new("L", (50, 50)).save(mvtec / "leather" / "ground_truth" / "cut" / "000_mask.png")
    with pytest.raises(ValueError, match="50x50"):
        defects_module.describe_defects(table)


def test_shares_of_defective_pixels(mvtec):
    table = index_mvtec(mvtec)
    shares = defects_module.defect_shares(table, side=10)  # of 10 x 10 pixels each
    assert list(shares) == ["cut", "glue"] and [len(of_type) for of_type in shares.values()] == [2, 2]
    assert shares["cut"][0].sum() == 4 and shares["cut"][0][4, 4] == 1
    assert [mask[8, 8] for mask in shares["glue"]] == [0, 1] and shares["glue"][1].sum() == 3
    assert defects_module.defect_shares(table, side=50)["cut"][0].sum() == 100


def test_brightness_separates_dark_from_good(mvtec):
    auroc = defects_module.separate_by_brightness(describe.describe_images(index_mvtec(mvtec)))
    assert auroc["cut"] == 1  # 101.6 and 102.08 against 100 and 100.5
    assert auroc["glue"] == 0
    even = pd.DataFrame({"part": "test", "defect": ["good", "cut", "cut"], "brightness": [5.0, 5.0, 5.0]})
    assert defects_module.separate_by_brightness(even)["cut"] == 0.5
    with pytest.raises(ValueError, match="good"):
        defects_module.separate_by_brightness(even[even["defect"] == "cut"])


def test_categories_start_with_leather(mvtec, capsys):
    for name in ("carpet", "zipper"):
        (mvtec / name / "train" / "good").mkdir(parents=True)
    assert defects_module.find_categories(mvtec) == ["leather", "carpet", "zipper"]
    assert defects_module.find_categories(mvtec / "leather") == []
    assert "no category with train/good" in capsys.readouterr().out


# -- figures --------------------------------------------------------------------------------------------


def texts(figure):
    figure.draw_without_rendering()  # tick labels are made when they are drawn
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def test_class_distribution_figure():
    counts = pd.Series([30, 10], index=["non_defective", "pinhole"])
    figure = figures.plot_class_distribution(counts, CLASSES, name="Set")
    assert [bar.get_width() for bar in figure.axes[0].patches] == [30, 10]
    assert {"Set: 40 images in 2 classes", "non defective", "30 (75.0%)", "10 (25.0%)"} <= set(texts(figure))


def test_strips_are_as_long_as_the_longest_and_white_where_there_is_no_picture():
    picture = np.zeros((8, 8, 3), np.uint8)
    pictures = {"grain_off": [picture, picture], "pinhole": [picture]}
    figure = figures.plot_strips(pictures, {name: name for name in pictures}, title="Set: n = 3 images")
    full, half = (axis.images[0].get_array() for axis in figure.axes)
    assert full.shape == half.shape and full[:, -2].max() == 0 and half[:, -8:].min() == 255
    assert {"grain off", "pinhole", "Set: n = 3 images"} <= set(texts(figure))


def test_size_figure(described):
    figure = figures.plot_sizes_and_formats(described, CLASSES, name="Set")
    top, bottom = figure.axes
    assert [bar.get_width() for bar in top.patches] == [4, 1]
    assert len(bottom.collections) == 4  # points and a median for each of two classes
    assert {"10 x 10\nPNG RGB", "20 x 10\nPNG RGB", "Set: sizes and formats, n = 5 images"} <= set(texts(figure))
    many = pd.concat([described] * 2, ignore_index=True).assign(width=range(12))  # two are unreadable
    assert "3 others" in texts(figures.plot_sizes_and_formats(many, CLASSES, name="Set"))


def test_a_few_huge_files_do_not_empty_the_axis(described):
    many = pd.concat([described.dropna(subset=["width"])] * 80, ignore_index=True).assign(bytes=6000)
    many.loc[[3, 7], "bytes"] = [1_600_000, 1_650_000]
    bottom = figures.plot_sizes_and_formats(many, CLASSES, name="Set").axes[1]
    assert bottom.get_title("left").endswith("; not on the axis: 2 files of 1,600 to 1,650 kB")
    assert sum(len(points.get_offsets()) for points in bottom.collections[::2]) == len(many) - 2
    assert bottom.get_xlim()[1] < 100
    many.loc[:40, "bytes"] = 1_600_000  # not few: they belong to the set
    bottom = figures.plot_sizes_and_formats(many, CLASSES, name="Set").axes[1]
    assert bottom.get_title("left") == "Size of the file, median marked" and bottom.get_xlim()[1] > 1600


def test_colour_figure(described):
    figure = figures.plot_colour_per_class(described, name="Set")
    brightness, _, strips = figure.axes
    assert [image.get_array().shape for image in strips.images] == [(1, 3, 3), (1, 2, 3)]
    points = brightness.collections[2]  # of the second class, in their own colour
    assert len(points.get_offsets()) == 2
    red, green, blue, _ = points.get_facecolors()[0]
    assert red == green == blue == pytest.approx(49.5 / 255)
    assert "Set: brightness, contrast and colour of 5 images" in texts(figure)


def test_mvtec_figures(mvtec):
    table = index_mvtec(mvtec)
    counts = defect_figures.plot_counts(defects_module.count_images(table), name="Set")
    assert [bar.get_width() for bar in counts.axes[0].patches] == [2, 2, 2, 2]
    assert {"train/good", "test/good", "test/cut", "test/glue"} <= set(texts(counts))
    brightness = defect_figures.plot_brightness(describe.describe_images(table), name="Set")
    assert [len(axis.collections) for axis in brightness.axes] == [8, 8]

    test = table[table["part"] == "test"]
    pictures = describe.example_pictures(test, by="defect", number=1, side=50)
    masks = defects_module.defect_shares(test, side=50)
    masks["glue"] = [np.zeros((50, 50))]  # an empty mask has no outline
    examples = defect_figures.plot_examples(pictures, masks, name="Set")
    assert [len(axis.images) for axis in examples.axes] == [1] * 6
    assert [len(axis.collections) for axis in examples.axes] == [0, 0, 1, 0, 0, 0]
    assert {"cut", "glue", "normal", "with outline"} <= set(texts(examples))


def test_defect_figures():
    defects = pd.DataFrame({"defect": ["cut", "cut", "cut", "glue"], "area": [5, 50, 0, 500], "regions": [1, 5, 0, 2]})
    defects = defects.assign(area_percent=defects["area"] / 10, brightness_difference=[1.0, -2, np.nan, 3])
    defects["contrast_ratio"] = [0.5, 2, np.nan, 1]
    area = defect_figures.plot_defect_area(defects, name="Set")
    assert area.axes[0].get_xscale() == "log"
    assert {"Set: size of the defects, n = 3 masks (1 empty)", "cut (n = 2)", "glue (n = 1)", "three or more"} <= set(
        texts(area)
    )
    assert [bar.get_width() for bar in area.axes[1].patches] == [1, 0, 0, 1, 1, 0]  # 1, 2, 3 or more; cut, glue
    comparison = defect_figures.plot_defect_comparison(defects, name="Set")
    assert len(comparison.axes) == 2
    assert "Set: defects against their surroundings, n = 3 masks" in texts(comparison)
    shares = {"cut": [np.eye(4), 0 * np.eye(4)], "glue": [np.zeros((4, 4))]}
    positions = defect_figures.plot_defect_positions(shares, name="Set")
    assert [axis.images[0].get_clim() for axis in positions.axes if axis.images] == [(0, 50)] * 2
    captions = {"cut\nn = 2", "glue\nn = 1", "Set: where the defects lie, n = 3 masks", "% of pictures defective there"}
    assert captions <= set(texts(positions))


@pytest.mark.parametrize("types", [1, 8])
def test_no_text_lies_on_another_one(types):
    names = [f"missing_insulation_{number}" for number in range(types)]
    picture, mask = np.zeros((8, 8, 3), np.uint8), np.eye(8)
    pictures = {name: [picture] for name in ["good", *names]}
    masks = {name: [mask] for name in names}
    for figure in (
        defect_figures.plot_examples(pictures, masks, name="MVTec AD zipper"),
        defect_figures.plot_defect_positions(masks, name="MVTec AD zipper"),
        figures.plot_strips(pictures, {name: name for name in pictures}, title="Set"),
    ):
        figure.draw_without_rendering()
        titles = [axis.title for axis in figure.axes if axis.get_visible()] + figure.texts
        boxes = [title.get_window_extent() for title in titles if title.get_text()]
        pairs = [(box, other) for number, box in enumerate(boxes) for other in boxes[:number]]
        assert not any(box.overlaps(other) for box, other in pairs)
