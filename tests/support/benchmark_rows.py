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
    "mmmu_pro": [
        {
            "id": "test_Art_Theory_2",
            "question": "In <image 1>, which?",
            "options": "['1', '2', '3', '4', '5', '6', '7', '8', '9', '10']",
            "answer": "J",
            "image_1": "0.png",
            "subject": "Art_Theory",
        },
    ],
    "mmmu_pro_vision": [
        {
            "id": "test_Math_1",
            "image": "0.png",
            "options": "['3', '4']",
            "answer": "B",
            "subject": "Math",
        },
    ],
    "mmstar": [
        {
            "index": 0,
            "question": "Which?\nOptions: A: One, B: Two, C: Three, D: Four",
            "image": "0.png",
            "answer": "A",
            "category": "math",
            "l2_category": "geometry",
            "meta_info": {"source": "MMBench", "split": "val", "image_path": "0.png"},
        },
    ],
    "hallusionbench": [
        {
            "category": "VD",
            "subcategory": "illusion",
            "visual_input": "1",
            "set_id": "0",
            "figure_id": "0",
            "question_id": "0",
            "question": "Is it the same size?",
            "gt_answer_details": "It is.",
            "gt_answer": "1",
            "filename": "0.png",
        },
    ],
    "m3cot": [
        {
            "id": "physical-commonsense-1",
            "category": "visual",
            "image_id": "1",
            "question": "What for?",
            "choices": ["to sit", "to eat", "to run"],
            "context": "A hall.",
            "answer": "B",
            "rationale": "r",
            "split": "test",
            "image": "0.png",
            "domain": "commonsense",
            "topic": "physical-commonsense",
        },
    ],
    "charxiv": [
        {
            "figure_path": "0.png",
            "reasoning_q": "Which models?",
            "reasoning_a": "Joint-CNN, BERT",
            "reasoning_a_type": 1,
            "reasoning_q_source": 1,
        },
        {
            "figure_path": "1.png",
            "reasoning_q": "How much?",
            "reasoning_a": "1500",
            "reasoning_a_type": 4,
            "reasoning_q_source": 3,
        },
    ],
    "chartqa": [
        {"type": "human_test", "question": "How many?", "answer": "14", "image": "0.png"},
        {"type": "augmented_test", "question": "Who?", "answer": "Inspired", "image": "0.png"},
    ],
    "ai2d": [
        {"question": "Which?", "options": ["c", "d", "x", "y"], "answer": "2", "image": "0.png"},
    ],
    "emma_mini": [
        {
            "pid": "math_1",
            "question": "Which follows <image_1>?",
            "options": ["3", "4"],
            "answer": "B",
            "image_1": "0.png",
            "subject": "Math",
            "task": "Pattern Inference",
            "category": "Pattern",
            "source": "Newly annotated",
            "type": "Multiple Choice",
            "context": "none",
        },
        {
            "pid": "physics_2",
            "question": "How far?",
            "options": [],
            "answer": "\\frac{1}{3}",
            "image_1": "0.png",
            "subject": "Physics",
            "task": "t",
            "category": "c",
            "source": "s",
            "type": "Open-ended",
            "context": "It falls.",
        },
    ],
    "mm_math": [
        {
            "question": "Find \\angle A.",
            "file_name": "0.png",
            "solution": "It is \\boxed{35}^{\\circ} at first, then \\boxed{\\frac{3}{2}}.",
            "year": "eight",
            "difficult": "Easy",
            "knowledge": "Triangle",
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
    "mmmu_pro": ["10"],
    "mmmu_pro_vision": ["(B)"],
    "mmstar": ["A: One"],
    "hallusionbench": ["Yes"],
    "m3cot": ["to eat"],
    "charxiv": ["Joint-CNN, BERT", "1,500"],
    "chartqa": ["14.5", "inspired"],
    "ai2d": ["x"],
    "emma_mini": ["4", "1/3"],
    "mm_math": ["1.5"],
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
    "mmmu_pro": ["I"],
    "mmmu_pro_vision": ["A"],
    "mmstar": ["B"],
    "hallusionbench": ["no"],
    "m3cot": ["(A)"],
    "charxiv": ["Joint-CNN", "150"],
    "chartqa": ["15", "Neutral"],
    "ai2d": ["A"],
    "emma_mini": ["A", "1/4"],
    "mm_math": ["35"],
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
