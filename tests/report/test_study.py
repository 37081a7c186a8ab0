from spermseg.report.study import PUBLISHED, StudyRow, StudyScores, study_csv, study_markdown


def metrics(split: str, ious: list[float]) -> dict:
    scores = dict.fromkeys(("iou", "dice", "precision", "recall", "f1"), 0.5)
    network = {"pooled": scores | {"dice": 0.712}, "per_image": {name: {"mean": 0.25} for name in scores}}
    return {"split": split, "images": [{"iou": iou} for iou in ious], "network_resolution": network}


ROW = StudyRow(augmented=True, epochs=30)
SCORES = StudyScores.of(ROW, metrics("test", [0.2, 0.49, 0.5, 0.9]))


def test_a_picture_has_failed_when_its_overlap_is_below_a_half():
    assert SCORES.failed == 0.5


def test_each_table_has_its_rows_with_the_papers_figure_beside_where_it_states_one():
    other = StudyScores.of(StudyRow(augmented=False, epochs=20), metrics("val", [1.0]))
    tables = study_markdown([SCORES, other]).split("## ")
    assert [table.split(",")[0] for table in tables[1:5]] == ["Table I", "Table II", "Table III", "Table IV"]
    assert "| 30 | test | 0.500 / 0.250 | 0.80 | 0.712 / 0.250 | 0.89 |" in tables[3]
    assert "| 20 | val | 0.500 / 0.250 | - | 0.712 / 0.250 | - |" in tables[1]
    assert "| yes | 30 | test | 50% |" in tables[5]


def test_the_csv_has_a_line_a_score():
    lines = study_csv([SCORES]).decode().splitlines()
    assert lines[0] == "augmented,epochs,split,score,pooled,mean_of_images,paper_test"
    assert lines[2] == "yes,30,test,dice,0.712,0.25,0.89"
    assert lines[5] == "yes,30,test,f1,0.5,0.25,0.81"


def test_what_the_paper_reports_is_known_for_two_rows_of_the_study():
    assert {row.name for row in PUBLISHED} == {"plain-50", "augmented-30"}
