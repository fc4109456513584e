"""Where a parent's text goes in a prompt, and where it never does; tests/promises/test_fence.py has what it may hold."""

from __future__ import annotations

import pytest

from orchestrai import InvalidTemplate
from orchestrai.attachments import image
from orchestrai.handoff import Block, Slot, filled, guarded, handed_over, slots, template_pieces, unfenced
from orchestrai.messages import Message, prompt_from

PARENT = [Block("the text", "Answer of a")]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(32)


def test_slots_are_what_stands_between_braces_and_nothing_else():
    assert slots("{parent} {parents} {shared.a b} {other} {parent.x} {shared.}") == {"parent", "parents", "shared.a b"}
    assert slots(prompt_from([{"role": "user", "content": ["{parent}", "x"]}])) == {"parent"}


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_a_slot_outside_of_the_users_words_is_an_error(role):
    with pytest.raises(InvalidTemplate, match=f"message of the {role}"):
        slots(prompt_from([{"role": role, "content": "{parent}"}, {"role": "user", "content": "x"}]))


def test_without_a_place_the_text_stands_at_the_end_of_the_last_words_of_the_user():
    prompt = prompt_from(
        [
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "well"},
            {"role": "user", "content": "second"},
        ]
    )
    done = handed_over(prompt, PARENT, {})
    assert [message.text for message in done[:2]] == ["first", "well"]
    assert unfenced(done[2].text) == ("second\n\n{parents}", PARENT)


def test_images_stay_with_their_message():
    picture = image(PNG)
    prompt = (Message("user", ("Look: {parent}", picture)),)
    (done,) = handed_over(prompt, PARENT, {})
    assert done.images == (picture,)
    assert unfenced(done.text)[1] == PARENT
    (at_the_end,) = handed_over((Message("user", ("Look", picture)),), PARENT, {})
    assert at_the_end.images == (picture,)
    assert unfenced(at_the_end.text)[1] == PARENT


def test_what_is_put_in_is_never_looked_at_again():
    assert filled("{shared.a} {shared.b}", {"shared.a": "{shared.b}", "shared.b": "{parent}"}) == "{shared.b} {parent}"


def test_the_places_of_a_template_are_told_from_braces_and_columns():
    pieces = template_pieces("{{parent}} {parent} {name} {shared.x}", parents=True)
    assert [type(piece) for piece in pieces] == [str, Slot, str, Slot, str]
    assert "".join(pieces) == "{{parent}} {parent} {name} {shared.x}"
    assert [piece for piece in template_pieces("{parent}{shared.x}", parents=False) if isinstance(piece, Slot)] == [
        "{shared.x}"
    ]


def test_a_row_is_plain_text_unless_a_cell_looks_like_a_place():
    assert guarded(["About ", Slot("{parent}")]) == "About {parent}"
    assert isinstance(guarded(["About {parent}"]), tuple)
    assert filled(guarded(["About {parent}"]), {"parent": "x"})[0].content == "About {parent}"
