"""What the generated shops sell: kinds of products, their attributes and their options.

An attribute is two words (one in the tiny shop) that occur nowhere else in a page: the reward looks for it as a part of
the title, the bullets and the description, so that a product which lacks it must not contain it by chance. Values of
one product's options differ from each other and from every button, since `click[value]` has to mean one thing.
`tests/envs/webshop/test_webshop_generator.py` holds the lists to both.
"""

from __future__ import annotations

from dataclasses import dataclass

Options = dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class ProductKind:
    """One kind of product.

    Attributes:
        noun: in titles, singular.
        query: what a shopper calls it, plural; the field of this name in product files.
        category: one of the five departments.
        path: the field `product_category`, parts separated by " › ".
        options: option name -> values a product of this kind may come in.
        prices: cheapest and dearest, in dollars.
    """

    noun: str
    query: str
    category: str
    path: str
    options: Options
    prices: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Wares:
    """Everything one shop draws from: kinds of products, and the attributes of each department."""

    kinds: tuple[ProductKind, ...]
    attributes: dict[str, tuple[str, ...]]


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


_COLORS = _words(
    "Black, White, Navy, Crimson, Olive, Teal, Ivory, Charcoal, Lavender, Mustard, Coral, Sky Blue, Forest Green, Plum"
)
_CLOTHES = _words("X-Small, Small, Medium, Large, X-Large, XX-Large")
_SHOES = _words("6, 7, 8, 9, 10, 11, 12")
_SCENTS = _words("Rose, Cedar, Citrus, Vanilla, Mint, Jasmine, Almond, Unscented")
_VOLUMES = _words("2 Fl Oz, 4 Fl Oz, 8 Fl Oz, 16 Fl Oz")
_PACKS = _words("Pack of 1, Pack of 2, Pack of 6, Pack of 12")
_FLAVOURS = _words("Sea Salt, Honey, Chili Lime, Cocoa, Maple, Garlic, Ginger, Apple Cinnamon")
_LENGTHS = _words("3 Feet, 6 Feet, 10 Feet, 15 Feet")
_STORAGE = _words("64GB, 128GB, 256GB, 512GB")
_WOODS = _words("Oak, Walnut, Maple Wood, Birch, Pine")
_SIZES = _words('12" x 12", 16" x 16", 18" x 30", 24" x 36"')


def _kinds(category: str, root: str, prices: tuple[int, int], rows: str, **schemes: Options) -> list[ProductKind]:
    """Read `noun | query | path below root | scheme of options` lines."""
    kinds = []
    for row in rows.strip().splitlines():
        noun, query, path, scheme = (part.strip() for part in row.split("|"))
        where = " › ".join([root, *(part.strip() for part in path.split(">"))])
        kinds.append(ProductKind(noun, query, category, where, schemes[scheme], prices))
    return kinds


# fmt: off
_FASHION = _kinds("fashion", "Clothes & Shoes", (9, 140), """
    Cardigan       | women's cardigans      | Women > Tops > Cardigans            | worn
    Blouse         | women's blouses        | Women > Tops > Blouses              | worn
    Pleated Skirt  | women's skirts         | Women > Skirts                      | worn
    Rain Jacket    | men's rain jackets     | Men > Jackets > Rain                | worn
    Polo Shirt     | men's polo shirts      | Men > Shirts > Polos                | worn
    Hoodie         | men's hoodies          | Men > Sweaters > Hoodies            | worn
    Pajama Set     | pajama sets            | Nightwear > Sets                    | worn
    Trail Shoe     | trail running shoes    | Shoes > Sports > Trail              | shod
    Loafer         | loafers                | Shoes > Slip Ons > Loafers          | shod
    Ankle Boot     | ankle boots            | Shoes > Boots > Ankle               | shod
    Backpack       | backpacks              | Bags > Backpacks                    | plain
    Wool Scarf     | scarves                | Accessories > Scarves               | plain
""", worn={"Color": _COLORS, "Size": _CLOTHES}, shod={"Color": _COLORS, "Size": _SHOES}, plain={"Color": _COLORS})

_BEAUTY = _kinds("beauty", "Beauty & Care", (4, 70), """
    Hand Cream     | hand creams            | Skin > Hands > Creams               | scented
    Face Serum     | face serums            | Skin > Face > Serums                | filled
    Body Lotion    | body lotions           | Skin > Body > Lotions               | scented
    Shampoo        | shampoos               | Hair > Washing > Shampoos           | scented
    Conditioner    | conditioners           | Hair > Washing > Conditioners       | scented
    Hair Mask      | hair masks             | Hair > Treatments > Masks           | filled
    Lip Balm       | lip balms              | Face > Lips > Balms                 | packed
    Nail Polish    | nail polishes          | Nails > Polishes                    | tinted
    Makeup Brush   | makeup brushes         | Tools > Brushes                     | tinted
    Toothbrush     | toothbrushes           | Oral > Brushes                      | tinted
    Bath Soap      | bath soaps             | Bath > Soaps                        | scented
    Mouthwash      | mouthwashes            | Oral > Rinses                       | packed
""", scented={"Scent": _SCENTS, "Size": _VOLUMES}, filled={"Size": _VOLUMES}, tinted={"Color": _COLORS},
    packed={"Flavor Name": _FLAVOURS, "Size": _PACKS})

_ELECTRONICS = _kinds("electronics", "Electronics", (8, 420), """
    Headphones     | headphones             | Audio > Headphones                  | plain
    Soundbar       | soundbars              | Audio > Speakers > Soundbars        | bare
    Tablet         | tablets                | Computers > Tablets                 | stored
    Mini Computer  | mini computers         | Computers > Desktops > Mini         | stored
    Power Bank     | power banks            | Phones > Charging > Power Banks     | plain
    Wall Charger   | wall chargers          | Phones > Charging > Wall Chargers   | plain
    Phone Case     | phone cases            | Phones > Cases                      | plain
    HDMI Cable     | video cables           | Cables > Video                      | cabled
    Network Cable  | network cables         | Cables > Network                    | cabled
    Action Camera  | action cameras         | Cameras > Action                    | stored
    Tripod         | tripods                | Cameras > Tripods                   | plain
    Desk Lamp      | desk lamps             | Lights > Desk                       | plain
""", plain={"Color": _COLORS}, bare={}, stored={"Color": _COLORS, "Capacity": _STORAGE},
    cabled={"Length": _LENGTHS, "Size": _PACKS})

_GARDEN = _kinds("garden", "Home & Garden", (12, 600), """
    Bookcase       | bookcases              | Furniture > Shelves > Bookcases     | wooden
    Coffee Table   | coffee tables          | Furniture > Tables > Coffee         | wooden
    Bar Stool      | bar stools             | Furniture > Seats > Stools          | wooden
    Armchair       | armchairs              | Furniture > Seats > Armchairs       | plain
    Shoe Rack      | shoe racks             | Furniture > Hallway > Racks         | wooden
    Throw Pillow   | decorative pillows     | Textiles > Pillows                  | cloth
    Area Rug       | area rugs              | Textiles > Rugs                     | cloth
    Window Curtain | curtains               | Textiles > Curtains                 | cloth
    Wall Mirror    | wall mirrors           | Decor > Mirrors                     | plain
    Picture Frame  | picture frames         | Decor > Frames                      | wooden
    Garden Bench   | garden benches         | Outdoors > Seats > Benches          | wooden
    Plant Pot      | plant pots             | Outdoors > Pots                     | plain
""", wooden={"Finish": _WOODS}, plain={"Color": _COLORS}, cloth={"Color": _COLORS, "Size": _SIZES})

_GROCERY = _kinds("grocery", "Food", (3, 60), """
    Granola        | granola                | Breakfast > Granola                 | tasty
    Oatmeal        | oatmeal cups           | Breakfast > Oatmeal                 | tasty
    Trail Mix      | trail mixes            | Snacks > Nuts > Mixes               | tasty
    Popcorn        | popcorn                | Snacks > Popcorn                    | tasty
    Protein Bar    | protein bars           | Snacks > Bars                       | tasty
    Rice Crackers  | crackers               | Snacks > Crackers                   | tasty
    Herbal Tea     | herbal teas            | Drinks > Tea > Herbal               | packed
    Ground Coffee  | ground coffee          | Drinks > Coffee > Ground            | packed
    Almond Butter  | nut butters            | Pantry > Spreads                    | tasty
    Pasta Sauce    | pasta sauces           | Pantry > Sauces                     | packed
    Lentil Soup    | soups                  | Pantry > Soups                      | packed
    Dried Mango    | dried fruits           | Snacks > Fruit > Dried              | packed
""", tasty={"Flavor Name": _FLAVOURS, "Size": _PACKS}, packed={"Size": _PACKS})

STANDARD = Wares(
    kinds=(*_FASHION, *_BEAUTY, *_ELECTRONICS, *_GARDEN, *_GROCERY),
    attributes={
        "fashion": _words(
            "machine washable, slim fit, relaxed cut, moisture wicking, water repellent, wrinkle resistant, "
            "elastic waist, zip closure, button front, drawstring hem, fleece lined, quick drying, "
            "hand stitched, breathable mesh, rubber outsole, arch support, padded shoulder, crew neck, "
            "high collar, tummy smoothing, faux leather, organic cotton, stretch denim, reflective trim, "
            "hidden pocket, tag free, sun blocking, cold weather"
        ),
        "beauty": _words(
            "sulfate free, paraben free, cruelty tested never, fragrance light, alcohol free, sensitive skin, "
            "dry scalp, damaged ends, tea tree, coconut oil, shea extract, aloe soothing, argan nourished, "
            "vitamin rich, fast absorbing, long wearing, leak proof, dermatologist approved, vegan recipe, "
            "travel sized, anti frizz, deep cleansing, teeth whitening, fresh breath, gentle bristles, "
            "matte look, plastic free, daily hydration"
        ),
        "electronics": _words(
            "noise cancelling, fast charging, wireless pairing, water proof, dust sealed, shock absorbing, "
            "ultra slim, high resolution, wide angle, low latency, hands free, voice controlled, "
            "touch sensitive, stereo sound, deep bass, gold plated, braided jacket, quad core, dual band, "
            "plug and play, energy saving, dimmable glow, night vision, carrying pouch, foldable arm, "
            "magnetic mount, battery included, tangle resistant"
        ),
        "garden": _words(
            "solid wood, steel legs, easy assembly, space saving, scratch resistant, rust proof, double sided, "
            "non slip, blackout weave, thermal insulated, memory foam, tufted back, adjustable height, "
            "folding design, wall mounted, weather proof, hand woven, fade resistant, stain repelling, "
            "rounded corners, storage drawer, open shelving, mid century, rustic style, glass top, velvet cover, "
            "pet friendly, hypoallergenic filling"
        ),
        "grocery": _words(
            "gluten free, dairy free, sugar free, low sodium, high protein, non gmo, certified organic, "
            "kosher made, plant based, keto friendly, soy free, nut free, whole grain, fiber rich, fair trade, "
            "single origin, slow roasted, stone ground, caffeine free, resealable bag, ready to eat, "
            "kettle cooked, unsweetened blend, artificial colors none, freeze preserved, small batch, "
            "lightly salted, heart healthy"
        ),
    },
)
"""Five departments of a dozen kinds each; two-word attributes, 28 to a department."""

_FEW_COLORS = _words("Red, Blue, Green, White")
_FEW_SIZES = _words("Small, Large")
_TWO = {"Color": _FEW_COLORS, "Size": _FEW_SIZES}
_ONE = {"Color": _FEW_COLORS}

TINY = Wares(
    kinds=(
        ProductKind("Scarf", "scarf", "fashion", "Wear › Scarf", _TWO, (10, 30)),
        ProductKind("Coat", "coat", "fashion", "Wear › Coat", _TWO, (10, 30)),
        ProductKind("Soap", "soap", "beauty", "Care › Soap", _ONE, (10, 30)),
        ProductKind("Brush", "brush", "beauty", "Care › Brush", _ONE, (10, 30)),
        ProductKind("Radio", "radio", "electronics", "Sound › Radio", _ONE, (10, 30)),
        ProductKind("Lamp", "lamp", "electronics", "Light › Lamp", _TWO, (10, 30)),
        ProductKind("Chair", "chair", "garden", "Home › Chair", _ONE, (10, 30)),
        ProductKind("Rug", "rug", "garden", "Home › Rug", _TWO, (10, 30)),
        ProductKind("Mug", "mug", "garden", "Home › Mug", _TWO, (10, 30)),
        ProductKind("Tea", "tea", "grocery", "Food › Tea", {}, (10, 30)),
    ),
    attributes=dict.fromkeys(
        ("fashion", "beauty", "electronics", "garden", "grocery"),
        _words("soft, warm, plain, round, heavy, quiet, fresh, strong"),
    ),
)
"""Ten kinds of one word, eight attributes of one word that all of them share."""
# fmt: on
