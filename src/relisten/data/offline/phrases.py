"""The words of questions and chains of thought: many ways to say the same, so that no sentence is learnt by heart.

{0} and {1} stand for names of sounds: "the knock" is written "the {0}". Of each kind of question the first two wordings
are the plainest; nano was trained on them, so they must not change.
"""

from __future__ import annotations

QUESTIONS: dict[str, tuple[str, ...]] = {
    "after": (
        "What came right after the {0}?", "Which sound is heard just after the {0}?",
        "What is heard right after the {0}?", "Which sound follows the {0}?", "What comes directly after the {0}?",
        "The {0} is heard; which sound starts next?", "After the {0} begins, what starts next?",
        "What is the next sound to set in after the {0}?", "Which of these follows on from the {0}?",
    ),
    "before": (
        "What came right before the {0}?", "Which sound is heard just before the {0}?",
        "What is heard right before the {0}?", "Which sound comes just ahead of the {0}?",
        "What sets in directly before the {0}?", "Which of these leads up to the {0}?",
        "Before the {0} begins, which sound started last?", "What precedes the {0}?",
    ),
    "between": (
        "What is heard between the {0} and the {1}?", "Which sound starts after the {0} but before the {1}?",
        "Something sets in between the {0} and the {1}. What is it?",
        "On the way from the {0} to the {1}, what else begins?",
    ),
    "count": (
        "How many times is the {0} heard?", "How often does the {0} occur?",
        "Count the {0}: how many times is it there?",
        "How many separate times can the {0} be made out?", "In all, how often is the {0} to be heard?",
    ),
    "first": (
        "What is heard first?", "Which of these sounds opens the recording?", "With which sound does it begin?",
        "Which sound sets in before all others?",
    ),
    "last": (
        "Which sound starts last?", "What is the last sound to set in?",
        "Which of these sounds comes in at the very end?",
        "After everything else has begun, which sound is still to come?",
    ),
    "longest": (
        "Which single sound lasts longest?", "Which of these sounds goes on for the longest time?",
        "One sound is held longer than any other. Which one?", "What has the longest duration here?",
    ),
    "longer": (
        "Which sound is longer, the one before the {0} or the one after it?",
        "Which lasts longer, the sound before the {0} or the sound after it?",
        "Of the two sounds that come before and after the {0}, which goes on for longer?",
        "The {0} lies between two sounds. Which of them takes more time?",
    ),
    "louder": (
        "Which sound is louder, the one before the {0} or the one after it?",
        "Which is louder, the sound before the {0} or the sound after it?",
        "Of the two sounds that come before and after the {0}, which is the louder one?",
        "The {0} lies between two sounds. Which of them is louder?",
    ),
    "together": (
        "What is heard at the same time as the {0}?", "Which sound overlaps with the {0}?",
        "While the {0} goes on, what else is there?", "Which of these sounds together with the {0}?",
    ),
    "word": (
        "Which word is spoken?", "What does the voice say?",
        "Which of these words is said?", "What word is uttered?",
    ),
    "word after": (
        "Which word is spoken after the {0}?", "What does the voice say once the {0} was heard?",
        "After the {0}, which word follows?", "Which word comes next after the {0}?",
    ),
    "next word": (
        'Which word is spoken right after "{0}"?', 'What does the voice say directly after "{0}"?',
        'Which word follows the word "{0}"?', 'Somebody says "{0}". What is the very next word?',
    ),
    "when word": (
        'In which part of the recording is the word "{0}" spoken?', 'When does the voice say "{0}"?',
        'Where in the recording is "{0}" said?', 'At what stage of the recording does the word "{0}" come?',
    ),
    "when": (
        "In which part of the recording is the {0} heard?", "Where in the recording does the {0} lie?",
        "When is the {0} to be heard?", "At what stage of the recording does the {0} come?",
    ),
    "order": (
        "In which order do these sounds start?", "What is the order in which these sounds set in?",
        "How do these sounds follow one another?", "Which sequence is the one that is heard?",
    ),
    "pitch": ("How high is the {0}?", "What is the pitch of the {0}?", "Where does the {0} lie in pitch?"),
    "direction": ("Which way does the {0} go?", "How does the {0} move?", "What does the pitch of the {0} do?"),
    "count of": (
        "How many {0}s are there in a row?", "Of how many {0}s is the series made?", "How many {0}s come in a row?",
        "The {0}: how many in a series?",
    ),
    "rate": ("How fast is the {0}?", "At what speed does the {0} go?", "What is the pace of the {0}?"),
    "length": ("How long is the {0}?", "Is the {0} short or long?", "What about the length of the {0}?"),
}  # fmt: skip

OPENINGS = {
    "overview": (
        "On a first hearing there is, in this order: {0}.", "Roughly, the recording goes like this: {0}.",
        "What I notice when it first goes by: {0}.", "From start to end I seem to hear {0}.",
        "As far as one hearing tells, it holds {0}.", "In passing I made out {0}.",
        "The first time through I noticed {0}.", "Played once, the recording gives {0}.",
        "A rough list of what goes by: {0}.", "Without going into detail there is {0}.",
    ),
    "guess": (
        "My first guess would be {0}, but that needs a second listen.",
        "It could well be {0}; I would rather make sure.",
        "At first I am tempted to say {0}. Let me check that.",
        "Suppose it is {0}. Does that hold when I listen again?",
        "{0} comes to mind, though a first impression is not enough.",
        "If I had to answer at once I would say {0}; better to listen.", "Is it {0}? Let me find out.",
        "I have {0} in my ear, but cannot be sure of it yet.", "Perhaps {0}. I had better go and hear.",
    ),
    "choices": (
        "The choices are {0}; listening has to decide.", "It has to be one of {0}.",
        "Between {0} only the recording itself can tell.", "I have to tell apart {0}.",
        "Open are {0}, and one after another has to go.", "Which of {0} is it? I listen for each.",
        "There are {0} to choose from, so I look for what rules them out.", "Possible are {0}.",
    ),
    "plain": (
        "This has to be settled by ear.", "Let me go back into the recording.", "I need to hear the place itself.",
        "A closer listen will tell.", "First I look for the right place.", "", "My memory of it is not enough here.",
        "I would rather hear it again than guess.", "It is worth going back for this one.",
        "What matters here is a short stretch of the recording.", "To answer I have to hear it once more.",
    ),
}  # fmt: skip

LEADS = {
    "find": (
        "The question is about the {0}, so I find it first", "To begin with, where is the {0}? It should be here",
        "I go to the {0}", "The {0} is the point to start from", "First the {0}, which the question names",
        "I look for the {0} and listen to that place again", "Everything hangs on the {0}, so back to it",
        "Let me pick out the {0}",
    ),
    "next": (
        "Now for what sets in after that", "Then the next thing that starts",
        "Going on from there, something else begins",
        "What comes next decides, so I listen on", "The following sound is what is asked for", "Right behind it",
        "I move on to the sound that comes after", "One step further",
    ),
    "previous": (
        "Now for what was there ahead of it", "Going back a little, something else started earlier",
        "What came before decides, so I step back", "The sound ahead of it is what is asked for", "Just before that",
        "I move back to the sound in front of it", "One step back",
    ),
    "again": (
        "It may well come back, and here is more", "Further on I check for another one", "Once more, later",
        "And is there another? I listen here", "The same again, it seems", "Here it might be again",
    ),
    "candidate": (
        "One to consider is this", "I measure this one", "This one may be it, so I listen closely",
        "To compare, I take this place", "Another candidate is here", "And this one beside it",
    ),
    "start": (
        "I go to the very first thing that stands out", "The opening is what matters, so I listen there",
        "Back to the beginning, to the first sound", "What is there before anything else? I listen to the start",
    ),
    "end": (
        "I go to the last thing that sets in", "The close is what matters, so I listen there",
        "What comes in when all the rest has begun? I listen near the end", "On to the final sound that starts",
    ),
    "beside": (
        "Something sounds along with it, so I listen to that", "There is more going on at that moment",
        "In the same stretch a second sound can be made out", "I listen to what lies beside it",
    ),
    "voice": (
        "A voice says something, and I need the word itself", "The word has to be heard clearly, so I go there",
        "I listen again to the place where somebody speaks", "Now to the spoken word",
    ),
    "sure": (
        "To be certain I go back once more", "One more listen, to make sure", "Just to rule out a mistake, again",
        "I check that place a second time",
    ),
}  # fmt: skip

WAYS: dict[str, tuple[str, ...]] = {
    "slow": ("slowed down", "at half speed, because it goes by fast"),
    "low": ("only the low part", "without what lies above it"),
    "high": ("only the high part", "without the rumble below it"),
    "band": ("only its own frequencies", "without what lies above and below"),
    "loud": ("made louder, because it is faint", "with more volume"),
    "clean": ("with the noise taken down", "without the noise around it"),
}
"""Why a segment is heard through an operation; said right before its tag."""

HEARD = (
    ": {0}.", ", and that is {0}.", ": what I hear is {0}.", ", where {0} can be heard.", ": it is {0}, clearly.",
    ". This is {0}.", " and there it is, {0}.", ": yes, {0}.", ", which turns out to be {0}.", ": no doubt, {0}.",
)  # fmt: skip

REMARKS: dict[str, tuple[str, ...]] = {
    "short": ("It is over quickly.", "It is short.", "That takes but a moment.", "It stops almost at once."),
    "long": ("It goes on for quite a while.", "It lasts.", "That is a long stretch.", "It keeps going for some time."),
    "early": ("All this is near the start.", "That lies early on.", "The recording has only just begun there."),
    "middle": (
        "That is around the middle of the recording.", "About half of the recording is over by then.",
        "It lies well inside, neither at the start nor at the end.",
    ),
    "late": ("By then the recording is nearly over.", "That is late in the recording.", "Not much is left after that."),
    "quiet": ("It is quiet, easy to miss.", "It is soft.", "One has to listen closely, it is faint."),
    "plain": (
        "It stands out well.", "It is easy to tell.", "There is no mistaking it.", "That I can hear well now.",
        "This time I hear it plainly.", "I am sure of that one.", "Heard by itself it leaves little doubt.",
    ),
    "unlike": ("No other sound is like it here.", "It comes but once.", "I find it only this one time.",
               "There is just one of these."),
    "lasts": (
        "It lasts about {0}.", "From beginning to end that is about {0}.", "It takes up about {0}.",
        "For about {0} it can be heard.", "About {0} later it has ended.", "Its length is about {0}.",
    ),
    "starts": (
        "It sets in at about {0} seconds.", "That begins some {0} seconds into the recording.",
        "Its onset is near {0} seconds.", "By the clock it starts around {0} seconds.",
    ),
    "alone": (
        "I make out no other sound at that moment.", "It stands by itself there.", "Around it I notice nothing else.",
        "It is not covered by anything that I can make out.",
    ),
    "over": (
        "{0} sounds along with it for a while.", "At the same time {0} is going on.", "It shares that place with {0}.",
        "Part of it lies on top of {0}.",
    ),
    "behind": (
        "Before it there was {0}.", "It comes some time after {0}.", "{0} set in ahead of it.",
        "The sound that started last before it is {0}.",
    ),
    "ahead": (
        "{0} is still to come.", "After it there will be {0}.", "Only then does {0} set in.",
        "The next to start after it is {0}.",
    ),
    "gap": (
        "Between it and {1} there is about {0}.", "It lies about {0} apart from {1}.", "From {1} it is about {0} away.",
        "About {0} is what lies between it and {1}.",
    ),
    "meets": ("It overlaps with {0}.", "For a moment it sounds together with {0}.", "It and {0} run into each other."),
    "longer": ("It goes on longer than {0}.", "Compared with {0} it is the longer one.", "{0} was shorter."),
    "shorter": ("It is shorter than {0}.", "Compared with {0} it is over sooner.", "{0} went on for longer."),
    "louder": ("It is clearly louder than {0}.", "{0} was softer.", "Beside {0} it is loud."),
    "softer": ("It is clearly softer than {0}.", "{0} was louder.", "Beside {0} it is soft."),
}  # fmt: skip
"""What may be added about a sound that was heard again (remarks.py says whether it holds). {0} and {1} are lengths, or
sounds with their article."""

RULED_OUT: dict[str, tuple[str, ...]] = {
    "earlier": (
        "{0} is there too, but earlier.", "{0} was heard before that, so it falls away.",
        "As for {0}, that set in earlier.", "I also know {0}, yet it had started before.",
    ),
    "later": (
        "{0} is there too, but later.", "{0} sets in only afterwards, so it falls away.",
        "As for {0}, that comes later on.", "I also know {0}, yet it starts after this.",
    ),
    "over": ("{0} is over after about {1}.", "{0} takes about {1}, which is less.", "With about {1}, {0} is behind."),
    "elsewhere": (
        "{0} is there too, but at another moment.", "{0} does not touch it.", "{0} lies elsewhere in the recording.",
    ),
    "absent": (
        "I do not hear {0} there.", "Nothing there sounds like {0}.", "There is no sign of {0} at that place.",
        "It does not sound like {0}.", "{0} would sound quite different.",
    ),
    "unsaid": ("I do not hear {0}.", "It does not sound like {0}.", "What is said is not {0}.", "{0} would differ."),
    "values": ("It is not {0}.", "I would not call it {0}.", "Listening closely, it cannot be {0}.",
               "That is not {0}."),
}  # fmt: skip
"""Why a wrong choice is wrong. {0} is the choice, or several."""

ORDERED = (
    "By their beginnings that is {0} seconds.", "They set in one by one: {0} seconds.",
    "On the clock I have {0} seconds.", "The onsets, as I hear them: {0} seconds.",
)  # fmt: skip
THIRD = (
    ("A third of {4} seconds is {0}, and at {3} it has ended.", "It ends at {3}, before {0} seconds are over.",
     "Of {4} seconds the first third goes up to {0}; it is over by {3}."),
    ("It starts at {2}, after {0} seconds, and ends at {3}, before {1}.",
     "The middle third goes from {0} to {1} seconds, and it lies from {2} to {3}.",
     "From {2} to {3}: that is between {0} and {1}, the middle of {4} seconds."),
    ("It starts at {2}, when {1} of {4} seconds are over.",
     "The last third begins at {1} seconds, and it sets in at {2}.",
     "Of {4} seconds the last third begins at {1}; it starts only at {2}."),
)  # fmt: skip
"""{0} and {1}: where the first and the second third end. {2} and {3}: the sound's times. {4}: the whole length."""
GUESSED = {
    "right": ("My first guess holds.", "So the first impression was right.", "That is what I supposed.",
              "The guess stands."),
    "wrong": ("So my first guess, {0}, does not hold.", "It is not {0}, as I first thought.", "I take back {0}.",
              "{0} was a guess too soon.", "The first impression, {0}, was wrong."),
}  # fmt: skip

CONCLUSIONS = (
    "So the answer is {0}.", "That makes it {0}.", "Hence {0}.", "It must be {0}.", "So it is {0}.",
    "The answer follows: {0}.", "This settles it: {0}.", "My answer is {0}.", "That leaves {0}.", "Therefore {0}.",
)  # fmt: skip
REASONS = {
    "after": ("Nothing else sets in between the two.", "No other sound starts in between.", ""),
    "before": ("Nothing else starts between the two.", "Between them no other sound begins.", ""),
    "between": (
        "The one in the middle starts after the {0} and before the {1}.", "That is what lies behind the {0}.",
        "So between the {0} and the {1} there is the {3}.",
    ),
    "count": (
        "That was the last one; I count {2}.",
        "Further ones are not to be found: {2} in all.", "In all that is {2}.",
    ),
    "first": ("Nothing sets in before it.", "All else comes later.", ""),
    "last": ("Nothing starts after it.", "All else began earlier.", ""),
    "longest": (
        "No other goes on for as long as the {3}.", "All others are over sooner than the {3}.",
        "The {3} outlasts the rest.",
    ),
    "longer": ("Of the two, {3} goes on for longer.", "Side by side, {3} takes more time.", ""),
    "louder": ("Of the two, {3} is louder.", "Side by side, {3} is the louder sound.", ""),
    "together": ("Both sound at the same moment.", "They overlap.", "The two lie on top of each other."),
    "when": ("Seen over the whole length, its place is clear.", "Compared with the whole length, that is plain.", ""),
    "order": ("One after another, they are all found.", "That is the sequence.", ""),
    "word": ("The word is clear.", "It can be understood well.", ""),
    "detail": ("That can be told from this place alone.", "A close listen leaves no doubt.", ""),
}  # fmt: skip

SHORT_LEADS: dict[str, tuple[str, ...]] = {
    "find": ("here it is", "this is the one", "listen to it", "asked about"),
    "next": ("right after it", "the next sound", "what follows", "next"),
    "previous": ("Just before it", "The sound before it", "What precedes it", "Back to the one before"),
    "voice": ("the next word", "the word after it", "the word that follows"),
    "again": ("here again", "once more", "it comes back"),
}
SHORT_HEARD = (", {0}.", ", which is {0}.", ", where I hear {0}.", ", and it is {0}.", " with {0}.")
"""LEADS and HEARD in the fewest words (short.py). nano was trained on these, so they must not change."""
