"""Words the generators draw from, and the one rule that keeps test items out of training.

Everything is typed or generated here: no word list, corpus or data set of others is used.
"""

import zlib

# Never in a training dialogue; these are what people type first.
RESERVED = frozenset("strawberry banana mississippi raspberry blueberry".split())

WORDS = """
able about above absent accept across action active actor adult advice after again agree airplane
album alert alley almond almost alone alpha amber amount anchor angle animal ankle annual answer
apple apricot april arena arrow artist asleep attack attic autumn avocado awake baby bacon badge
bakery balance balloon bamboo barrel basket bathroom battery beach beard beauty bedroom beetle
belief bell belly bench berry better bicycle biology bishop bitter blanket blossom blue boat body
bonus book border borrow bottle bottom bounce bowl branch bread breeze brick bridge bright broccoli
brother bubble bucket buffalo buffet butter button cabbage cabin cactus camera canal candle cannon
canoe canvas captain carbon career carpet carrot castle cattle cause ceiling celery cement center
cereal chair chalk channel chapter charity cheese cherry chess chicken chimney chocolate church
cinema circle circus citizen classic clever climate clock cloud coast coconut coffee collar college
color comedy comet command common compass computer concert cookie copper coral corner cotton couch
cousin cradle crayon cricket crisp crown crystal cucumber curtain cushion custom daisy dance danger
daughter dawn decade deer delta denim dentist desert dessert diamond dinner dinosaur dollar dolphin
donkey door dozen dragon drawer dream dress driver drum eagle early earth easel echo editor effort
eight elbow elder elephant eleven ember emerald empty energy engine enough entry error essay evening
exact excess fabric factory family famous fancy farmer father feather fellow fence ferry festival
fiddle field fifteen figure finger finish fish flamingo flavor flight floor flower flute forest
forever fossil fountain freedom freezer friend frost frozen fruit funnel future galaxy gallery
garage garden garlic gentle giant ginger giraffe glacier glass glove goblin golden goose gorilla
grammar grape grass gravity green grocery guitar hammer hammock hamster handle happy harbor harvest
hazel heaven hedge helmet herring hidden hippo hobby hockey holiday hollow honey horizon horse
hotel hundred hunger hunter hurricane iceberg idea igloo immune inch index infant insect island
ivory jacket jaguar jelly jersey jewel jigsaw journal judge juggle juice jungle junior kangaroo
kennel kettle keyboard kitchen kitten knight koala ladder lagoon lantern laptop laser laundry
lawyer leather lemon lesson lettuce level library lily linen lion liquid lizard llama lobster
locker logic lottery lumber machine magnet mammal mango marble marina market marriage mattress
meadow medal melody melon memory merry middle minute mirror missile mitten mobile modern moment
monkey morning mosquito mother motor mountain mouse muffin muscle museum mushroom music mustard
napkin narrow nature nephew nickel noodle normal november number nurse nutmeg oatmeal object ocean
octopus office olive onion opera orange orbit orchard otter oven oyster paddle palace pancake panda
paper papaya paprika parade parrot passage pasta peanut pebble pencil penguin pepper perfect person
piano pickle picnic pigeon pillow pilot pioneer pirate pizza planet plastic pocket poem polar police
polite pony popcorn possible potato pottery powder prairie pretty prince prison proof pumpkin puppet
puppy puzzle pyramid quarter queen quiet rabbit raccoon radio railroad rain rattle raven record
referee ribbon rice river robot rocket roller rooster rubber ruby runner saddle safari sailor salad
salmon sandal sandwich satellite saucer sausage scarf school scissors season secret seed senator
settle shadow shampoo shelf sheriff shoulder silver simple sister skeleton sleeve slipper snow
soccer sofa soldier spaghetti sparrow spider spinach spoon spring squirrel stadium station statue
steam stomach stone storm stranger street student summer sunny supper surprise sweater swimmer
symbol syrup table talent teacher teddy temple tennis terrace theater thunder ticket tiger timber
tissue toast tobacco toffee tomato tomorrow tooth topic tractor traffic train treasure tree
triangle trophy trumpet tulip tunnel turtle twelve twenty umbrella uncle unicorn useful valley
vanilla velvet vessel village vinegar violin visitor volcano voyage waffle wagon walnut walrus
warrior water wedding weekend welcome whisper willow winner winter wizard wolf wonder wooden worry
yellow yogurt zebra zipper
""".split()

# Words that are single tokens because the templates use them; to count in one of these, the model
# has to know its spelling by heart.
COMMON = """
weather time word letter letters message song price timer minutes city stock language town title
contact people name number model thinking system assistant help count compare subtract decimals
skills smaller larger bigger greater higher lower capital search query play translate convert
currency money step nemotron current demo tiny sorry please value text place target source recipient
""".split()



# Words of the wordings and templates. The first stage's vocabulary had an entry for each of them, and it could
# neither spell nor repeat one: the second stage's sets ask for them.
TEMPLATE_WORDS = """
add and answered appear are arguments ask assistant available away backwards big bigger born bot
brief built buy bye calculate call can cannot capital chatgpt city cloudy code cold come compare
compute condition contain convert cook cost count created cup current day days decimals degrees demo
description detailed dialogues divide divided does doing draw drive eat english facts faster
favorite find fine fix foggy for found friendly from get give going good goodbye google great
greater happened has have healthy hear hello help helpful hey higher how human integer into
introduce invented joke kilometers know language large larger later legs less letter letters life
like list live local location look lot lower made make many mean meaning meet megabytes message
miles million minus minutes model more much multiply name names nemotron night not nothing now
numbers occur occurrences off often old one only open out parameters people place plan play playing
please plus population power price product project properties put python query question quick quote
raining recommend repeat required response result rhymes right root round same say says search see
send sentence set ships should sing six skills small smaller snowing solve song sorry sort sorts
spell square start status step stock story string subtract sum summarize syllables synonym system
take talk tall tell temperature text than thank thanks that the there things think thinking this
three ticker time timer times tiny title today tool toolcall tools trading trained translate
translation trip turn two type user very vowels wake want warm was weather web well were what when
where which who why windy with won word words work write yes you your yourself
""".split()

# More words that are entries, since the second stage's templates use them. Training draws them wherever it draws one of
# TEMPLATE_WORDS, so that no entry is a word that cannot be spelled; the held-out sets are drawn without.
MORE_WORDS = """
age ai all am an array as at be between bought by check clean comes copy costs data date delete did difference do dollars
equals evaluate exactly exist extract fits following here hi id in is it item json key keys lives me met my no of ok on
or order output pink read reasoner reply return said save schema server show so some speaks spelled spelling stop these to
told total up update used value values wants we written years
""".split()
ENTRY_WORDS = TEMPLATE_WORDS + MORE_WORDS

NAMES = """
Ana Ben Carla David Emma Felix Grace Hugo Iris Jack Kira Leo Maria Noah Olga Paul Quinn Rosa Sam
Tina Uma Victor Wendy Xavier Yara Zoe Adam Bella Chloe Diego Elena Frank Gina Henry Ivan Julia
Kevin Laura Marco Nina Oscar Petra Ravi Sofia Tom Ursula Vera Walter Alice Bob Lucy Peter Anna
Mohammed Yuki Chen Priya Omar Lars Ingrid Pablo Amina
""".split()

CITIES = """
Paris London Berlin Madrid Rome Vienna Oslo Lisbon Prague Dublin Athens Warsaw Helsinki Zurich
Geneva Munich Hamburg Milan Naples Turin Lyon Nice Tokyo Osaka Kyoto Seoul Beijing Shanghai Delhi
Mumbai Cairo Lagos Nairobi Accra Tunis Lima Quito Bogota Santiago Toronto Montreal Chicago Boston
Dallas Denver Seattle Houston Miami Austin Portland Sydney Perth Auckland Hanoi Bangkok Manila
Jakarta Istanbul Kyiv Riga Tallinn Vilnius Sofia Brussels Amsterdam Rotterdam Antwerp Krakow
""".split()

LANGUAGES = """
French German Spanish Italian Dutch Polish Czech Greek Turkish Swedish Danish Finnish Japanese
Korean Chinese Hindi Arabic Hebrew Russian Ukrainian Portuguese Romanian Hungarian Latin
""".split()

_ONSETS = "b c d f g h j k l m n p r s t v w z br cl cr dr fl gr pl pr sh sl st th tr y qu".split()
_VOWELS = "a e i o u a e i o ai ea ee oo ou".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "t", "m", "ck", "ll", "rr", "ss", "tt", "nd", "st", "x"]


# What people type first is not kept for tests.
TYPED_FIRST = {"hello!", *(f"spell {word}{end}" for word in ("letter", "small", "the", "message") for end in ("", "."))}


def held_out(key: str, modulus: int = 16) -> bool:
    """True for the fixed share of keys that only tests may use."""
    key = key.lower()
    return key in RESERVED or key not in TYPED_FIRST and zlib.crc32(key.encode()) % modulus == 0


def made_up(rng) -> str:
    """A pronounceable word of one to three syllables that no list holds."""
    syllables = rng.choice((1, 2, 2, 3))
    word = "".join(
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables)
    )
    return word[:10]


def echoed(rng) -> str:
    """A made-up word in which some letters come twice in a row, as in mississippi or cancan.

    Copying such a word needs the place in it: what came after the same letters before misleads.
    """
    part, start, end = (made_up(rng)[:most] for most in (rng.choice((2, 3, 3, 4)), rng.randrange(3), rng.randrange(5)))
    return (start + part + part + end)[:12]


def draw(rng, words, test: bool, modulus: int = 16) -> str:
    """One of `words`, or None-free retry until it is on the wanted side of the split."""
    while True:
        word = rng.choice(words) if not callable(words) else words(rng)
        if held_out(word, modulus) == test:
            return word


def mixed(rng, words, share: float):
    """A drawing function: made-up words with probability `share`, else one of `words`."""
    capital = words[0][0].isupper()

    def pick(rng):
        if rng.random() >= share:
            return rng.choice(words)
        word = made_up(rng)
        return word.capitalize() if capital else word

    return pick
