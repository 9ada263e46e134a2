"""Drawn commands to a robot: an English sentence and its intents with thematic roles.

The names of intents and roles are those of hri_actions_msgs/Intent (ROS4HRI): "Could you take the red cup to
Anna?" is ``BRING_OBJECT object=red cup recipient=Anna``; several intents are joined by ``; `` in the order in
which the robot acts. Every sentence follows from (seed, index). A sentence belongs to the held-out part by a
hash of its words alone, so no draw of one part ever gives a sentence of the other.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from itertools import islice

import numpy as np

HELD_OUT = 10  # one sentence in so many


def _listed(text: str) -> list[str]:
    return " ".join(text.split()).split(", ")


PEOPLE = _listed("""
    Anna, Ben, Carla, David, Emma, Felix, Grace, Hannah, Ivan, Julia, Karim, Laura, Mark, Nina,
    Oliver, Paula, Quentin, Rosa, Samir, Tina, Ulrich, Vera, William, Yasmin, Zoe, Luke, Maria,
    Peter, Sophie, Tom, Alice, Bruno, Clara, Daniel, Elena, Frank, Greta, Hugo, Irene, Jonas,
    Leila, Martin, Nora, Omar, Pia, Robert, Sarah, Theo, Ursula, Victor
""")
TITLES = _listed("""
    the doctor, the nurse, the receptionist, my mother, my father, the visitor, the technician,
    my neighbour, the guest, the manager, the new patient, our guests, the children
""")
PLACES = _listed("""
    kitchen, living room, bedroom, bathroom, garage, garden, office, entrance, lobby, reception,
    canteen, library, workshop, laboratory, storage room, meeting room, conference room,
    elevator, staircase, balcony, terrace, basement, attic, hallway, corridor, dining room,
    laundry room, waiting room, charging station, loading dock, parking lot, pharmacy, first
    floor, second floor, main hall, cafeteria, playground, gym, server room, printer room, exit,
    back door, front door
""")
SUPPORTS = _listed("""
    table, shelf, counter, desk, chair, sofa, bed, floor, window sill, tray, cupboard, drawer,
    fridge, dishwasher, sink, trolley, workbench, bookcase, nightstand, basket, rack, stool,
    cabinet, carpet, coffee table, kitchen table, top shelf, bench
""")
OBJECTS = _listed("""
    cup, glass, bottle, plate, bowl, fork, knife, spoon, book, newspaper, letter, parcel, box,
    bag, backpack, umbrella, coat, jacket, shoe, towel, blanket, pillow, lamp, phone, charger,
    tablet, laptop, keyboard, mouse, cable, battery, screwdriver, hammer, drill, wrench, screw,
    remote control, key, wallet, watch, pen, pencil, notebook, folder, envelope, apple, banana,
    orange, sandwich, cake, milk carton, juice, water bottle, coffee mug, teapot, medicine, pill
    box, bandage, thermometer, first aid kit, flower, vase, toy, ball, teddy bear, plant,
    watering can, broom, bucket, sponge, trash bag, magazine, camera, headphones
""")
ADJECTIVES = _listed("""
    red, blue, green, yellow, black, white, small, big, empty, full, old, new, clean, dirty,
    heavy, broken, wooden, round, long, second
""")
MOTIONS = {
    "wave": "wave,wave your hand,give a wave",
    "bow": "bow,take a bow,make a bow",
    "nod": "nod,nod your head,give a nod",
    "shake head": "shake your head",
    "dance": "dance,do a dance,show a little dance",
    "turn around": "turn around,turn round,spin around",
    "raise arms": "raise your arms,lift both arms,put your arms up",
    "point left": "point left",
    "point right": "point right,point to the right",
    "sit down": "sit down,take a seat",
    "stand up": "stand up,get up",
    "clap": "clap,clap your hands",
    "stretch": "stretch,stretch your arms",
    "look up": "look up,look at the ceiling",
    "step back": "step back,take a step back,move back a bit",
}
ACTIVITIES = _listed("""
    quiz, memory game, morning exercise, story time, cleaning, patrol, inventory, music lesson,
    guided tour, follow me mode, night watch, vacuum cleaning, language lesson, breathing
    exercise, card game, security round, temperature check, delivery round, photo session,
    karaoke
""")
CONTENTS = _listed("""
    weather forecast, daily menu, news, map of the building, opening hours, bus schedule, safety
    video, calendar, photo album, price list, agenda, visitor guide, floor plan, shopping list,
    train timetable, welcome video, exercise video, recipe of the day, contact list, evacuation
    plan
""")
SUBJECTS = _listed("""
    dinner, lunch, breakfast, the meeting, the train, the doctor, the taxi, the parcel, the
    coffee, the room, the bus, my car, the class, the visitor, the medicine, the printer, the
    elevator, the lesson, the dog, the laundry
""")
STATES = _listed("""
    is ready, is late, starts at noon, is cancelled, has arrived, is waiting outside, will be
    here soon, is out of order, starts in ten minutes, is on the second floor, has been moved to
    Friday, is over, needs help, is on the way, will take an hour, is not here today, is free
    now, was yesterday, begins at three, can wait until tomorrow
""")
GREETINGS = "hello,good morning,good evening,hi,good night,welcome".split(",")

# {o} object, {p} place, {s} support, {r} recipient, {x} what there is to say, show or start, {m} motion
PATTERNS: dict[str, tuple[str, ...]] = {
    "MOVE_TO goal={p}": (
        "go to the {p}", "drive to the {p}", "move to the {p}", "head over to the {p}", "come to the {p}",
        "get yourself to the {p}", "wait for me in the {p}", "meet me at the {p}", "return to the {p}",
    ),
    "MOVE_TO goal={s}": ("go over to the {s}", "drive up to the {s}", "stop next to the {s}"),
    "GUIDE goal={p} recipient={r}": (
        "guide {r} to the {p}", "show {r} the way to the {p}", "take {r} to the {p}", "lead {r} to the {p}",
        "accompany {r} to the {p}", "walk {r} over to the {p}", "bring {r} to the {p}",
        "help {r} find the {p}",
    ),
    "GRAB_OBJECT object={o}": (
        "pick up the {o}", "grab the {o}", "take the {o}", "get hold of the {o}", "lift the {o}",
        "pick the {o} up", "hold the {o}",
    ),
    "GRAB_OBJECT object={o} goal={s}": (
        "pick up the {o} from the {s}", "take the {o} off the {s}", "grab the {o} that is on the {s}",
        "get the {o} from the {s}", "fetch the {o} lying on the {s}",
    ),
    "BRING_OBJECT object={o} recipient={r}": (
        "bring {r} the {o}", "bring the {o} to {r}", "take the {o} to {r}", "give {r} the {o}",
        "hand the {o} to {r}", "deliver the {o} to {r}", "carry the {o} over to {r}", "fetch the {o} for {r}",
        "pass {r} the {o}", "get {r} the {o}",
    ),
    "BRING_OBJECT object={o} goal={p} recipient={r}": (
        "bring the {o} to {r} in the {p}", "take {r} the {o} in the {p}",
        "deliver the {o} to {r}, who is in the {p}", "carry the {o} to the {p} for {r}",
        "find {r} in the {p} and hand over the {o}",
    ),
    "BRING_OBJECT object={o} goal={p}": (
        "bring the {o} to the {p}", "carry the {o} into the {p}", "take the {o} to the {p}",
        "the {o} belongs in the {p}, so take it there", "transport the {o} to the {p}",
    ),
    "PLACE_OBJECT object={o} goal={s}": (
        "put the {o} on the {s}", "place the {o} on the {s}", "set the {o} down on the {s}",
        "leave the {o} on the {s}", "put the {o} back on the {s}", "lay the {o} onto the {s}",
    ),
    "GREET recipient={r}": (
        "greet {r}", "say {x} to {r}", "welcome {r}", "tell {r} {x}", "give {r} a warm welcome",
    ),
    "ENGAGE_WITH recipient={r}": (
        "talk to {r}", "start a conversation with {r}", "pay attention to {r}", "listen to {r}",
        "chat with {r} for a while", "look after {r}",
    ),
    "SAY object={x} recipient={r}": (
        "tell {r} that {x}", "let {r} know that {x}", "inform {r} that {x}", "say to {r} that {x}",
        "remind {r} that {x}", "pass on to {r} that {x}",
    ),
    "SAY object={x}": (
        "announce that {x}", "say that {x}", "tell everybody that {x}", "let everyone know that {x}",
    ),
    "PRESENT_CONTENT object={x}": (
        "show the {x}", "display the {x}", "present the {x} on your screen", "open the {x}", "put up the {x}",
    ),
    "PRESENT_CONTENT object={x} recipient={r}": (
        "show {r} the {x}", "present the {x} to {r}", "let {r} see the {x}", "display the {x} for {r}",
    ),
    "PERFORM_MOTION object={m}": ("{x}",),
    "PERFORM_MOTION object={m} recipient={r}": ("{x} for {r}", "{x} in front of {r}"),
    "START_ACTIVITY object={x}": (
        "start the {x}", "begin the {x}", "launch the {x}", "it is time for the {x}", "let us start the {x}",
        "carry on with the {x}",
    ),
    "STOP_ACTIVITY object={x}": (
        "stop the {x}", "end the {x}", "cancel the {x}", "abort the {x}", "that is enough of the {x}",
        "quit the {x} now",
    ),
    "STOP_ACTIVITY": ("stop what you are doing", "stop right now", "leave that alone", "that is enough"),
}  # fmt: skip
OPENINGS = (
    "", "", "", "", "please ", "could you ", "can you ", "would you please ", "I want you to ",
    "I need you to ", "robot, ", "hey robot, ", "I would like you to ", "you should ", "now ",
    "quickly ", "when you can, ",
)  # fmt: skip
ENDINGS = ("", "", "", "", " please", " now", " for me", " right away", " as soon as possible", ", thank you")
JOINS = (" and then ", ", then ", " and ", ", and when you are done, ")
# they stand alone, as do sentences that begin with a name
STATEMENTS = ("the ", "it is ", "that is ", "let us ")
AGAIN = {  # a second act on the object of the first
    "BRING_OBJECT object={o} recipient={r}": ("bring it to {r}", "give it to {r}", "hand it to {r}"),
    "BRING_OBJECT object={o} goal={p}": ("take it to the {p}", "bring it to the {p}"),
    "PLACE_OBJECT object={o} goal={s}": ("put it on the {s}", "leave it on the {s}", "place it on the {s}"),
}


class _Draw:
    """The words of one sentence."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.words: dict[str, str] = {}

    def one(self, values: tuple[str, ...] | list[str]) -> str:
        return values[int(self._rng.integers(len(values)))]

    def chance(self, probability: float) -> bool:
        return bool(self._rng.random() < probability)

    def fill(self, intent: str) -> None:
        """Draw anew every word but the object."""
        adjective = f"{self.one(ADJECTIVES)} " if self.chance(0.4) else ""
        recipient = self.one(TITLES) if self.chance(0.25) else "me" if self.chance(0.1) else self.one(PEOPLE)
        about = {
            "SAY": f"{self.one(SUBJECTS)} {self.one(STATES)}",
            "PRESENT_CONTENT": self.one(CONTENTS),
            "GREET": self.one(GREETINGS),
        }
        motion = self.one(list(MOTIONS))
        what = about.get(intent, self.one(ACTIVITIES))
        self.words = {
            "p": self.one(PLACES),
            "s": self.one(SUPPORTS),
            "o": self.words.get("o", adjective + self.one(OBJECTS)),
            "r": recipient,
            "m": motion,
            "x": self.one(MOTIONS[motion].split(",")) if intent == "PERFORM_MOTION" else what,
        }

    def act(self, patterns: dict[str, tuple[str, ...]]) -> tuple[str, str]:
        """A clause and its intent."""
        meaning = self.one(list(patterns))
        self.fill(meaning.split()[0])
        clause = self.one(patterns[meaning]).format(**self.words)
        return clause, meaning.format(**{**self.words, "r": self.words["r"].removeprefix("the ")})


def _sentence(draw: _Draw) -> tuple[str, str]:
    clause, meaning = draw.act(PATTERNS)
    kind = draw._rng.random() if not clause.startswith(STATEMENTS) and clause[0].islower() else 1.0
    if kind < 0.12 and meaning.startswith("GRAB_OBJECT"):
        second, then = draw.act(AGAIN)
        clause, meaning = f"{clause} and {second}", f"{meaning}; {then}"
    elif kind < 0.3:
        draw.words = {}
        second, then = draw.act(PATTERNS)
        if second[0].islower() and not second.startswith(STATEMENTS) and draw.chance(0.3):
            clause = draw.one(["{} before you {}", "first {} and after that {}"]).format(clause, second)
        else:
            clause += draw.one(JOINS) + second
        meaning = f"{meaning}; {then}"
    elif kind < 0.36 and " goal=" in meaning and f" the {draw.words['p']}" in clause:
        wrong, right = draw.one(PLACES), draw.words["p"]  # the speaker corrects himself
        clause = clause.replace(f"the {right}", f"the {wrong}, no, sorry, the {right}", 1)
    if not clause.startswith(STATEMENTS) and clause[0].islower():
        clause = draw.one(OPENINGS) + clause
    clause += draw.one(ENDINGS)
    question = clause.startswith(("could", "can", "would"))
    text = clause[0].upper() + clause[1:] if draw.chance(0.8) else clause
    return text + (draw.one(["?", "?", ""]) if question else draw.one([".", ".", "", "!"])), meaning


def held_out(sentence: str) -> bool:
    """Whether ``sentence`` belongs to the part for measuring; case, "." and "!" make no difference."""
    return zlib.crc32(sentence.lower().strip(".?! ").encode()) % HELD_OUT == 0


def commands(seed: int, test: bool = False) -> Iterator[tuple[str, str]]:
    """(sentence, intents) without end: of the held-out part if ``test``, else of the part for training."""
    rng = np.random.default_rng([seed, 2])
    while True:
        pair = _sentence(_Draw(rng))
        if held_out(pair[0]) == test:
            yield pair


def main() -> None:
    """`python -m dynofa_ros.demo.commands N`: N held-out sentences with their intents, a tab between."""
    for sentence, meaning in islice(commands(0, test=True), int(sys.argv[1])):
        print(sentence, meaning, sep="\t")


if __name__ == "__main__":
    main()
