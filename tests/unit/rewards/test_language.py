# Texts in many scripts:
# ruff: noqa: RUF001

import itertools
import subprocess
import sys
import time

import pytest

from r1ray.errors import ConfigError, DataError
from r1ray.rewards.language import LanguageReward, count_words, detect_language
from r1ray.rewards.words import prose, sentences, words
from r1ray.types import Completion, Prompt

TEXTS = {
    "en": [
        "The farmer sells sixteen eggs every morning at the market near his house.",
        "We have to find out how much money she makes in a week, so let us multiply.",
        "That means there are only nine of them left for the afternoon.",
    ],
    "zh": [
        "农夫每天早上在家附近的市场上卖十六个鸡蛋。",
        "我们需要算出她一周能赚多少钱，所以先做乘法。",
        "也就是说下午只剩下九个了。",
    ],
    "de": [
        "Der Bauer verkauft jeden Morgen sechzehn Eier auf dem Markt in der Nähe seines Hauses.",
        "Wir müssen herausfinden, wie viel Geld sie in einer Woche verdient, also multiplizieren wir.",
        "Das heißt, dass am Nachmittag nur noch neun davon übrig sind.",
    ],
    "fr": [
        "Le fermier vend seize œufs chaque matin au marché près de sa maison.",
        "Nous devons trouver combien d'argent elle gagne en une semaine, alors multiplions.",
        "Cela veut dire qu'il n'en reste que neuf pour l'après-midi.",
    ],
    "es": [
        "El granjero vende dieciséis huevos cada mañana en el mercado cerca de su casa.",
        "Tenemos que averiguar cuánto dinero gana ella en una semana, así que multipliquemos.",
        "Eso significa que solo quedan nueve de ellos para la tarde.",
    ],
    "ru": [
        "Фермер каждое утро продаёт шестнадцать яиц на рынке возле своего дома.",
        "Нам нужно узнать, сколько денег она зарабатывает за неделю, поэтому умножим.",
        "Это значит, что на вторую половину дня осталось только девять.",
    ],
    "ja": [
        "農家は毎朝、家の近くの市場で卵を十六個売ります。",
        "彼女が一週間でいくら稼ぐかを求める必要があるので、掛け算をしましょう。",
        "つまり、午後には九個しか残っていないということです。",
    ],
    "ko": [
        "농부는 매일 아침 집 근처 시장에서 달걀 열여섯 개를 팝니다.",
        "그녀가 일주일에 얼마를 버는지 알아내야 하므로 곱해 봅시다.",
        "즉 오후에는 아홉 개만 남는다는 뜻입니다.",
    ],
}


def prompt(question: str = "How many are there?", **metadata: object) -> Prompt:
    return Prompt("p", question, "", (), "1", metadata=metadata)


def value(text: str, *, asked: Prompt | None = None, **options: object) -> float:
    completion = Completion("0/p", "p", 0, text, (), (), (), "stop")
    return LanguageReward(**options)(asked or prompt(), completion).value


@pytest.mark.parametrize(("written", "target"), list(itertools.product(TEXTS, TEXTS)))
def test_a_pure_text_is_all_in_its_language_and_not_at_all_in_another(written, target):
    text = "<think>" + " ".join(TEXTS[written]) + "</think> 42"
    assert value(text, target=target) == (1.0 if written == target else 0.0)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(TEXTS, 2)))
def test_of_a_mixed_text_the_words_of_the_target_count(one, other):
    mixed = " ".join(itertools.chain(*zip(TEXTS[one], TEXTS[other], strict=True)))
    sizes = {code: sum(count_words(text, code)[1] for text in TEXTS[code]) for code in (one, other)}
    expected = sizes[one] / (sizes[one] + sizes[other])
    assert value(mixed, target=one) == pytest.approx(expected, abs=0.05)
    assert value(mixed, target=other) == pytest.approx(1 - expected, abs=0.05)


def test_words_of_another_script_within_a_sentence_count_one_by_one():
    # Seven ideographs, two English words.
    assert value("我们先计算 total price。", target="zh") == pytest.approx(5 / 7)
    assert value("First 我们 multiply", target="English") == pytest.approx(2 / 4)


def test_what_is_no_prose_does_not_count():
    text = (
        "Nous avons `let total = price` et $x + \\text{the price} = 3$ puis \\(a \\le b\\) et \\[one two\\] "
        "\\begin{align} y &= two \\begin{matrix} in \\end{matrix} words \\end{align} voir https://the.web.org/of/words\n"
        "```python\nfor word in words:\n    print(word)\n```\n~~~\nmore english\n~~~\n12 3e5 x y < > <answer>"
    )
    assert [word for _, word in words(prose(text))] == ["Nous", "avons", "et", "puis", "et", "voir"]


def test_amounts_of_dollars_are_no_formula():
    text = "She pays $2 per egg, $3 per dozen and $4 for (the rest of it all for 5$) today"
    found = " ".join(word for _, word in words(prose(text)))
    assert found == "She pays per egg per dozen and for the rest of it all for today"


def test_a_word_is_a_run_of_letters_an_ideograph_or_a_hiragana():
    found = [word for _, word in words("don’t Straße e\u0301te\u0301 x轴 コーヒー です 한국어 수 हिन्दी")]
    assert found == ["don’t", "Straße", "e\u0301te\u0301", "轴", "コーヒー", "で", "す", "한국어", "수", "हिन्दी"]


@pytest.mark.parametrize(
    "text",
    [
        "Let x = 3, thus n = 2.\nHence p + q = 10.\nSo m = 4.",
        "Total: 4x-13+x = 339\nx = 40 Pokemon\nStan: 147 Pokemon",
        "Let B = number of points Bahati scored\nAzibo = B - 20\nDinar = B - 10\nAzibo scored 5 points.",
    ],
)
def test_short_english_sentences_full_of_mathematics_are_english(text):
    assert value(text, target="en") == 1.0


def test_short_foreign_sentences_do_not_pass_as_english():
    text = "Primero sumamos los huevos.\nLuego restamos tres.\nAhora quedan nueve.\nEntonces multiplicamos todo."
    assert value(text, target="en") == 0.0
    assert value(text, target="es") == 1.0


def test_japanese_words_without_kana_are_not_chinese_and_chinese_sentences_are_not_japanese():
    assert value("合計金額\n" + TEXTS["ja"][0], target="ja") == 1.0
    assert value(TEXTS["zh"][0] + TEXTS["ja"][0], target="ja") < 0.6


def test_the_chain_is_what_stands_before_the_last_closing_tag():
    text = "<think>" + TEXTS["zh"][0] + "</think>" + " ".join(TEXTS["en"])
    assert value(text, target="zh") == 1.0
    assert value(text, target="en") == 0.0
    assert 0.5 < value(text, target="en", scope="all") < 1.0
    # Without a closing tag all of it is a chain, begun or not.
    assert value("<think>" + TEXTS["zh"][0], target="zh") == 1.0
    assert value(TEXTS["zh"][0], target="zh") == 1.0


@pytest.mark.parametrize("text", ["", "<think></think> The answer is four", "<think>2 + 2 = 4, $x$</think>", "\ud800"])
def test_a_chain_without_words_earns_nothing_unless_asked(text):
    assert value(text, target="en") == 0.0
    assert value(text, target="en", no_words=0.5) == 0.5


def test_the_target_is_the_option_then_the_metadata_then_the_language_of_the_question():
    german = TEXTS["de"][0]
    assert value(german, asked=prompt(TEXTS["fr"][0], target_language="German")) == 1.0
    assert value(german, asked=prompt(TEXTS["fr"][0], target_language="de"), target="fr") == 0.0
    assert value(german, asked=prompt(TEXTS["de"][1])) == 1.0
    assert value(german, asked=prompt(TEXTS["fr"][0])) == 0.0


@pytest.mark.parametrize("code", TEXTS)
def test_the_language_of_a_question_is_found(code):
    assert [detect_language(text) for text in TEXTS[code]] == [code] * 3


def test_a_question_without_words_is_english():
    assert detect_language("2 + 2 = ?") == "en"
    assert detect_language("Compute $x^2$.") == "en"


def test_languages_are_named_by_code_or_name_with_or_without_region():
    for name in ("zh", "ZH", "Chinese", "chinese", "zh-CN", "zh_Hans"):
        assert value(TEXTS["zh"][0], target=name) == 1.0


def test_an_unknown_language_is_refused_with_those_supported():
    with pytest.raises(ConfigError, match=r"target must be .* got 'klingon': supported are ar \(Arabic\), .*zh \(Ch"):
        LanguageReward(target="klingon")
    with pytest.raises(DataError, match=r"metadata target_language of prompt 'p' must be .* got 'xx'"):
        value("a", asked=prompt(target_language="xx"))


def test_options_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="scope must be one of think, all, got 'answer'"):
        LanguageReward(scope="answer")
    with pytest.raises(ConfigError, match=r"no_words must be in \[0, 1\], got 2"):
        LanguageReward(no_words=2)


@pytest.mark.parametrize(
    "unit", ["$", "$ a", "\\(", "\\[", "`", "```", "\\begin{a}", "\\end{a}", "a'", "http://", "ア", "ー", ". ", "word "]
)
def test_a_megabyte_of_anything_is_read_in_linear_time(unit):
    def seconds(size: int) -> float:
        started = time.process_time()
        for sentence in sentences(prose(unit * (size // len(unit)))):
            list(words(sentence))
        return time.process_time() - started

    seconds(1000)
    # Quadratic time would be minutes.
    assert seconds(1_000_000) < 10


def test_importing_the_reward_loads_no_model():
    code = (
        "import sys, r1ray.rewards.language; assert 'py3langid' not in sys.modules; assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
