"""Numbers with units as answers: lengths to temperatures, money, counted things, and angles."""

import random
from fractions import Fraction
from typing import NamedTuple

from tests.support.answer_numbers import (
    Base,
    Core,
    decimal_text,
    number_cores,
    other_values,
    plain_text,
)
from vlm_rl.verification.gold import Gold


class Unit(NamedTuple):
    """What a unit measures, its size in the first unit of its kind, and its names."""

    measures: str
    size: Fraction
    tails: tuple[str, ...]
    long: tuple[str, ...] = ()
    chinese: tuple[str, ...] = ()


def _symbol(symbol: str) -> tuple[str, ...]:
    forms = (r"\text{ %s}", r"\ \text{%s}", r"\,\mathrm{%s}", r"\mathrm{~%s}", r"~\text{%s}", " %s")
    return tuple(form % symbol for form in forms)


def _power(symbol: str, power: int) -> tuple[str, ...]:
    sign = "²³"[power - 2]
    forms = [r"\text{ %s}^", r"\,\mathrm{%s}^", r"\mathrm{~%s}^", " %s^"]
    tails = [form % symbol + str(power) for form in forms] + [rf"\text{{ {symbol}}}^{{{power}}}"]
    return (*tails, f" {symbol}{sign}", rf"\text{{ {symbol}{sign}}}")


def _quotient(top: str, bottom: str) -> tuple[str, ...]:
    return (
        rf"\text{{ {top}/{bottom}}}",
        f" {top}/{bottom}",
        rf"\ \mathrm{{{top}/{bottom}}}",
        rf"\,\text{{{top}}}\cdot\text{{{bottom}}}^{{-1}}",
        rf" \frac{{{top}}}{{{bottom}}}",
        rf"\ \frac{{\text{{{top}}}}}{{\text{{{bottom}}}}}",
    )


def _rows() -> dict[str, Unit]:
    f = Fraction
    rows = {
        "m": Unit("length", f(1), _symbol("m"), ("meters", "metres", "meter"), ("米",)),
        "cm": Unit("length", f(1, 100), _symbol("cm"), ("centimeters", "centimetres"), ("厘米",)),
        "mm": Unit("length", f(1, 1000), _symbol("mm"), ("millimeters",), ("毫米",)),
        "km": Unit(
            "length", f(1000), _symbol("km"), ("kilometers", "kilometres"), ("千米", "公里")
        ),
        "m^2": Unit("area", f(1), _power("m", 2), ("square meters",), ("平方米",)),
        "cm^2": Unit("area", f(1, 10**4), _power("cm", 2), ("square centimeters",), ("平方厘米",)),
        "m^3": Unit("volume", f(1), _power("m", 3), ("cubic meters",), ("立方米",)),
        "cm^3": Unit("volume", f(1, 10**6), _power("cm", 3), ("cubic centimeters",), ("立方厘米",)),
        "L": Unit("volume", f(1, 1000), _symbol("L"), ("liters", "litres"), ("升",)),
        "mL": Unit("volume", f(1, 10**6), _symbol("mL"), ("milliliters",), ("毫升",)),
        "m/s": Unit("speed", f(1), _quotient("m", "s"), ("meters per second",), ("米/秒",)),
        "km/h": Unit(
            "speed", f(5, 18), _quotient("km", "h"), ("kilometers per hour",), ("千米/时",)
        ),
        "kg": Unit("mass", f(1), _symbol("kg"), ("kilograms", "kilogram"), ("千克", "公斤")),
        "g": Unit("mass", f(1, 1000), _symbol("g"), ("grams", "gram"), ("克",)),
        "s": Unit("time", f(1), _symbol("s"), ("seconds",), ("秒",)),
        "min": Unit("time", f(60), _symbol("min"), ("minutes",), ("分钟",)),
        "h": Unit("time", f(3600), _symbol("h"), ("hours",), ("小时",)),
        "N": Unit("force", f(1), _symbol("N"), ("newtons",), ("牛",)),
        "kN": Unit("force", f(1000), _symbol("kN"), ("kilonewtons",)),
        "J": Unit("energy", f(1), _symbol("J"), ("joules",), ("焦耳",)),
        "kJ": Unit("energy", f(1000), _symbol("kJ"), ("kilojoules",), ("千焦",)),
        "W": Unit("power", f(1), _symbol("W"), ("watts",), ("瓦",)),
        "kW": Unit("power", f(1000), _symbol("kW"), ("kilowatts",), ("千瓦",)),
        "V": Unit("voltage", f(1), _symbol("V"), ("volts",), ("伏",)),
        "mV": Unit("voltage", f(1, 1000), _symbol("mV"), ("millivolts",)),
        "A": Unit("current", f(1), _symbol("A"), ("amperes", "amps"), ("安",)),
        "mA": Unit("current", f(1, 1000), _symbol("mA"), ("milliamperes",), ("毫安",)),
        "Hz": Unit("frequency", f(1), _symbol("Hz"), ("hertz",), ("赫兹",)),
        "MHz": Unit("frequency", f(10**6), _symbol("MHz"), ("megahertz",)),
    }
    return rows


def _special_rows() -> dict[str, Unit]:
    f, rows = Fraction, {}
    ohms = (r"\ \Omega", r"\,\Omega", r"\Omega", "Ω", r"\ \text{Ω}", " Ω")
    kilo = (r"\text{ k}\Omega", r"\ \mathrm{k}\Omega", " kΩ", r"\ k\Omega")
    rows["Ω"] = Unit("resistance", f(1), ohms, ("ohms", "ohm"), ("欧姆", "欧"))
    rows["kΩ"] = Unit("resistance", f(1000), kilo, ("kilohms",), ("千欧",))
    micro = (r"\,\mu F", r"\ \mu\text{F}", " μF", r"\ \mu\mathrm{F}", r"\text{ μF}")
    rows["μF"] = Unit("capacitance", f(1, 10**6), micro, ("microfarads",))
    rows["F"] = Unit("capacitance", f(1), _symbol("F"), ("farads",))
    degree = (r"^\circ", r"^{\circ}", "°", "º", r"\degree", r"\text{°}", r"^\circ\,")
    rows["°"] = Unit("angle", f(1), degree, ("degrees", "degree"), ("度",))
    celsius = (
        r"^\circ C",
        r"^\circ\text{C}",
        r"\,^\circ\mathrm{C}",
        "°C",
        "℃",
        r"^{\circ}\mathrm{C}",
    )
    rows["°C"] = Unit("temperature", f(1), celsius, ("degrees Celsius",), ("摄氏度",))
    return rows


UNITS = _rows() | _special_rows()
ODD = {
    "°": (r"\text{ rad}", "'", r"\text{ cm}"),
    "°C": ("°F", r"^\circ\text{F}", r"\text{ K}", r"\text{ cm}"),
}
"""Units of other kinds, beside those of the table."""

ALIKE = ("angle", "temperature")
"""Kinds whose units are written alike: 30 degrees may be either."""

QUANTITY_INJURIES = ("not", "taken back", "alternative", "second value")


def _tails(unit: Unit, rng: random.Random) -> list[tuple[str, str]]:
    tails = [("unit symbol", tail) for tail in unit.tails]
    for name in unit.long:
        tails.append(
            ("long unit", rng.choice([rf"\text{{ {name}}}", f" {name}", rf"\ \text{{{name}}}"]))
        )
    return tails + [("Chinese unit", name) for name in unit.chinese]


def quantity(
    text: str, number: str, symbol: str, rng: random.Random, unit: str | None = None
) -> Base:
    """Return `number` in the unit `symbol`; `unit` is the gold's own, if it stands apart."""
    measure, value = UNITS[symbol], Fraction(number)
    plain = [core.text for core in number_cores(value) if core.bare]
    same = [
        Core(move, rng.choice([number, number, *plain]) + tail)
        for move, tail in _tails(measure, rng)
        for _ in range(2)
    ]
    same += [Core("unit left out", spelled, pure=False) for spelled in plain]
    others = [(name, row) for name, row in UNITS.items() if name != symbol]
    alike = [row for _, row in others if row.measures == measure.measures]
    for row in alike:
        converted = value * measure.size / row.size
        if Fraction(1, 10**4) <= abs(converted) < 10**7 and decimal_text(converted):
            same += [
                Core("conversion", plain_text(converted) + tail) for _, tail in _tails(row, rng)
            ]
    other = [
        Core("another size", number + tail)
        for row in alike
        if row.size != measure.size
        for _, tail in _tails(row, rng)
    ]
    kinds = [row for _, row in others if row.measures != measure.measures]
    if measure.measures in ALIKE:
        kinds = [row for row in kinds if row.measures not in ALIKE]
    other += [Core("another kind", number + rng.choice(row.tails)) for row in rng.sample(kinds, 6)]
    other += [Core("another kind", number + tail) for tail in ODD.get(symbol, ())]
    for move, near in other_values(value).items():
        other.append(Core(move, plain_text(near) + rng.choice(measure.tails)))
        other.append(Core(move, plain_text(near)))
    names = (r"\angle ABC = ", r"\theta = ") if symbol == "°" else ("x=", "AB = ")
    if measure.measures not in ("angle", "length"):
        names = ("x = ",)
    gold = Gold(text, "number" if unit else "number_unit", unit=unit)
    kind = f"quantity: {measure.measures}"
    return Base(kind, gold, tuple(same), tuple(other), names, (), QUANTITY_INJURIES)


def amount(
    kind: str, gold: str, same: list[str], value: str, tails: list[str], wrong: list[str]
) -> Base:
    """Return money or counted things, whose units have no table."""
    number = Fraction(value)
    cores = [Core("unit spelled", text) for text in same]
    cores += [Core("unit left out", c.text, pure=False) for c in number_cores(number) if c.bare]
    other = [
        Core(move, plain_text(near) + tail)
        for move, near in other_values(number).items()
        for tail in ["", *tails]
    ]
    other += [Core("another unit", text) for text in wrong]
    names, golden = ("x = ",), Gold(gold, "number_unit")
    return Base(kind, golden, tuple(cores), tuple(other), names, (), QUANTITY_INJURIES)


def quantities(rng: random.Random) -> list[Base]:
    """Return all quantities."""
    rows = """5 cm|12 cm|3.5 m|120 mm|0.4 km|7 m|12 cm^2|78.5 cm^2|30 m^2|0.5 m^2|12 m^3|8 cm^3|2 L
    250 mL|10 m/s|9.5 m/s|60 km/h|36 km/h|5 kg|250 g|0.75 kg|45 s|90 min|3 h|1.5 h|6 N|6 kN|50 J
    2.5 kJ|60 W|1.5 kW|220 V|3 A|2.5 mA|50 Hz|90 MHz|10 Ω|1.5 kΩ|20 μF|36 °|140 °|22.5 °|30 °C
    -5 °C|1200 m|15 kg|-3 m/s|0.05 m""".replace("\n", "|").split("|")
    bases = []
    for index, (number, symbol) in enumerate(row.split() for row in rows):
        text = number + UNITS[symbol].tails[index % 3]
        bases.append(quantity(text, number, symbol, rng))
    for number, symbol in [("12", "cm"), ("30", "°"), ("5", "kg"), ("2.5", "m/s")]:
        bases.append(quantity(number, number, symbol, rng, unit=symbol))
    for number, symbol in [("5", "cm"), ("3", "h"), ("12", "m^3"), ("5", "m/s"), ("36", "°")]:
        bases.append(quantity(number + UNITS[symbol].chinese[0], number, symbol, rng))
    return bases + [amount(*row) for row in AMOUNTS]


AMOUNTS = [
    (
        "money",
        r"\$34",
        ["$34", r"\$34", "34 dollars", r"34\text{ dollars}", r"\$34.00", r"\$ 34"],
        "34",
        [" dollars", r"\text{ dollars}"],
        ["34 cents", r"34\text{ cents}", r"34\text{ kg}", r"\$35", r"\$3.4", r"-\$34", "€34"],
    ),
    (
        "money",
        r"\$1,200",
        [r"\$1,200", r"\$1200", "1200 dollars", r"1{,}200\text{ dollars}", r"\$1200.00"],
        "1200",
        [" dollars"],
        [r"\$1,300", r"1200\text{ cents}", r"\$1.2"],
    ),
    (
        "money",
        "30元",
        ["30元", "30 元", "¥30", "￥30", r"30\text{元}", "30 yuan", r"30\text{ yuan}"],
        "30",
        ["元", " yuan"],
        ["30角", r"30\text{ cm}", "30万元"],
    ),
    (
        "counted",
        "15 people",
        ["15 people", r"15\text{ people}", r"15\ \text{people}"],
        "15",
        [" people", r"\text{ people}"],
        [r"15\text{ kg}", r"15\text{ dozen people}", r"15\text{ million people}"],
    ),
    (
        "counted",
        "12 students",
        ["12 students", r"12\text{ students}", r"12\ \text{students}", "twelve students"],
        "12",
        [" students"],
        [r"12\text{ cm}", r"12\text{ dozen students}"],
    ),
    ("counted", "8颗", ["8颗", "8 颗", r"8\text{颗}"], "8", ["颗"], ["8万颗", "8厘米"]),
    ("counted", "24本", ["24本", "24 本", "24本书"], "24", ["本"], ["24千克", "24万本"]),
]
