"""Rows of each benchmark in its published schema, and a right and a wrong answer to each."""

import json

from PIL import Image

from vlm_rl.evaluation.benchmarks.dynamath import NUM_VARIANTS

META = {"category": "c", "task": "t", "context": "x", "grade": "g", "language": "english"}

ROWS = {
    "mathvista": [
        {
            "pid": "1",
            "question": "How far?",
            "image": "0.png",
            "choices": None,
            "unit": None,
            "precision": 1,
            "answer": "1.2",
            "question_type": "free_form",
            "answer_type": "float",
            "metadata": META,
        },
        {
            "pid": "2",
            "question": "How old?",
            "image": "0.png",
            "choices": None,
            "unit": "years",
            "precision": None,
            "answer": "7",
            "question_type": "free_form",
            "answer_type": "integer",
            "metadata": META,
        },
        {
            "pid": "3",
            "question": "Which?",
            "image": "0.png",
            "choices": ["15 cm", "18 cm"],
            "unit": None,
            "precision": None,
            "answer": "18 cm",
            "question_type": "multi_choice",
            "answer_type": "text",
            "metadata": META,
        },
    ],
    "mathvision": [
        {
            "id": "1",
            "question": "Which?\n<image1>",
            "options": ["A", "B", "C", "D", "E"],
            "answer": "D",
            "image": "0.png",
            "level": 1,
            "subject": "logic",
        },
        {
            "id": "2",
            "question": "How big?\n<image1>",
            "options": [],
            "image": "0.png",
            "answer": "\x0crac{36}{13}",
            "level": 5,
            "subject": "algebra",
        },
        {
            "id": "3",
            "question": "How wide?\n<image1>",
            "options": [],
            "image": "0.png",
            "answer": "$\\frac{90}{23}^{\\circ}$",
            "level": 5,
            "subject": "algebra",
        },
    ],
    "mathverse": [
        {
            "sample_index": "1",
            "problem_index": "1",
            "problem_version": "Text Lite",
            "question": "The angle is ()\nChoices:\nA:40°\nB:60°\nC:120°\nD:140°",
            "image": "0.png",
            "answer": "D",
            "question_type": "multi-choice",
            "metadata": {"subject": "Plane Geometry"},
        },
        {
            "sample_index": "5",
            "problem_index": "1",
            "problem_version": "Vision Only",
            "question": "",
            "image": "0.png",
            "answer": "D",
            "question_type": "multi-choice",
            "metadata": {"subject": "Plane Geometry"},
        },
    ],
    "wemath": [
        {
            "ID": "2steps_1",
            "question": "OA is",
            "option": "A. 300, 400;B. 400, 300; C. no answer",
            "answer": "B",
            "image_path": "0.png",
            "key": "2steps_multi",
            "knowledge concept": "k",
        },
    ],
    "logicvista": [
        {
            "id": "v1_1",
            "question": "Which of A-D?",
            "answer": "B, D",
            "image": "0.png",
            "skill": ["inductive"],
        },
        {
            "id": "v1_2",
            "question": "Which of 1-5?",
            "answer": "3",
            "image": "0.png",
            "skill": ["deductive"],
        },
    ],
    "mmmu": [
        {
            "id": "validation_Math_1",
            "question": "In <image 1>, which?",
            "options": "['3', '4']",
            "answer": "B",
            "question_type": "multiple-choice",
            "image_1": "0.png",
        },
        {
            "id": "validation_Art_Theory_2",
            "question": "How much?",
            "options": "[]",
            "answer": "['24/7', '3.43']",
            "question_type": "open",
            "image_1": "0.png",
        },
    ],
    "geometry3k": [
        {"images": ["0.png"], "problem": "<image>Find x.", "answer": "2 \\sqrt { 221 }"},
    ],
    "aime24": [{"id": 60, "problem": "Find n.", "answer": "025"}],
    "aime25": [{"id": "0", "problem": "Find n.", "answer": "70"}],
    "amc23": [{"id": 0, "question": "Find n.", "answer": "27.0"}],
    "math500": [
        {
            "unique_id": "test/1.json",
            "problem": "Find r.",
            "answer": "\\frac{\\pi}{2}",
            "subject": "Precalculus",
            "level": 2,
        },
    ],
}
RIGHT = {
    "mathvista": ["1.24", "7 \\text{ years}", "18\\text{ cm}"],
    "mathvision": ["(D)", "36/13", "\\frac{90}{23}^\\circ"],
    "mathverse": ["140^\\circ", "D"],
    "wemath": ["B"],
    "logicvista": ["D, B", "3"],
    "mmmu": ["4", "\\frac{24}{7}"],
    "geometry3k": ["2\\sqrt{221}"],
    "aime24": ["25"],
    "aime25": ["70"],
    "amc23": ["27"],
    "math500": ["\\pi/2"],
}
WRONG = {
    "mathvista": ["1.26", "8 \\text{ years}", "15 cm"],
    "mathvision": ["A", "2.77", "\\frac{90}{23} \\text{ cm}"],
    "mathverse": ["120^\\circ", "A"],
    "wemath": ["A"],
    "logicvista": ["B", "4"],
    "mmmu": ["A", "3.5"],
    "geometry3k": ["2\\sqrt{22}"],
    "aime24": ["26"],
    "aime25": ["70.5"],
    "amc23": ["27.5"],
    "math500": ["\\pi/3"],
}


def dynamath_folder(folder, num_seeds=3):
    kinds = [("float", "2.094"), ("multiple choice", "B"), ("text", "Jul")]
    for variant in range(1, NUM_VARIANTS + 1):
        trial = folder / f"trial{variant}"
        trial.mkdir(parents=True)
        Image.new("RGB", (28, 28)).save(trial / "0.png")
        rows = {
            str(seed): {
                "question": "q",
                "image": "0.png",
                "answer": kinds[seed % 3][1],
                "answer_type": kinds[seed % 3][0],
                "subject": "analytic     geometry",
                "level": "l",
            }
            for seed in range(num_seeds)
        }
        (trial / "dataset.json").write_text(json.dumps(rows))
    return str(folder)
