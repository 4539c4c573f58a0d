"""Makes porism-math.woff2, the font of the report's formulas: a subset of STIX Two Math with its MATH table.

    pip download ziamath==0.13 --no-deps && unzip ziamath-0.13-*.whl ziamath/fonts/STIXTwoMath-Regular.ttf
    pip install fonttools brotli
    python make.py ziamath/fonts/STIXTwoMath-Regular.ttf

(ziamath is one of the packages that carry the font whole.) characters.txt says afterwards which characters the subset has;
a test compares it with what the renderer writes.
"""

import copy
import sys
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

# What formulas are made of, by Unicode block: first and last character.
CHARACTERS = [
    (0x0020, 0x007E),  # ASCII
    (0x00A0, 0x017F),  # Latin letters with marks, in \text
    (0x0237, 0x0237),  # j without its dot
    (0x02C6, 0x02DD),  # accents
    (0x0300, 0x0338),  # accents that combine, the slash of negations among them
    (0x0391, 0x03F6),  # Greek
    (0x2010, 0x2064),  # dashes, quotation marks, primes, dots, invisible operators
    (0x20D0, 0x20DF),  # arrows over letters
    (0x2100, 0x214F),  # letters that are symbols
    (0x2190, 0x21FF),  # arrows
    (0x2200, 0x22FF),  # operators
    (0x2300, 0x2300),  # diameter, which stands for the empty set
    (0x2308, 0x230B),  # ceilings and floors
    (0x231C, 0x231F),  # corners
    (0x2322, 0x2323),  # frown, smile
    (0x239B, 0x23B1),  # pieces of brackets
    (0x23B4, 0x23B5),  # brackets over and under
    (0x23DC, 0x23E1),  # braces over and under
    (0x25A0, 0x25A1),  # squares
    (0x25B2, 0x25D0),  # triangles, circles
    (0x25E6, 0x25EF),
    (0x25FB, 0x25FC),
    (0x2605, 0x2606),  # stars
    (0x2660, 0x2667),  # suits
    (0x266D, 0x266F),  # flat, natural, sharp
    (0x2713, 0x2713),  # check mark
    (0x27C2, 0x27C2),  # perpendicular
    (0x27E6, 0x27FF),  # double and angle brackets, long arrows
    (0x29B5, 0x29BC),  # circled operators
    (0x29EB, 0x29EB),  # black lozenge
    (0x29F5, 0x29F8),  # backslash and slash as operators
    (0x2A00, 0x2A0C),  # large operators
    (0x2A3F, 0x2A3F),  # amalgamation
    (0x2A7D, 0x2ABA),  # relations that slant
    (0x2AC5, 0x2ACC),  # subsets with an equals sign
    (0x1D400, 0x1D4CF),  # letters bold, italic, script
    (0x1D504, 0x1D56B),  # Fraktur, double-struck
    (0x1D5A0, 0x1D5D3),  # sans-serif
    (0x1D670, 0x1D755),  # of a typewriter; Greek bold and italic
    (0x1D7CA, 0x1D7FF),  # digits
]

# Characters whose forms for superscripts and subscripts are kept; for the others the ordinary form, smaller, will do.
SCRIPTS = [
    (0x0028, 0x003E),  # brackets, digits, signs
    (0x2032, 0x2037),  # primes, which would be too small without
    (0x2057, 0x2057),
    (0x2212, 0x2212),
    (0x221E, 0x221E),
    (0x1D434, 0x1D467),  # italic letters
    (0x1D6FC, 0x1D714),  # italic Greek letters
]

NAME = "Porism Math"


def characters(ranges):
    return {c for first, last in ranges for c in range(first, last + 1)}


def keep_script_forms(font):
    """Takes the script forms of all but SCRIPTS out of the font, so that the subset has no glyphs for them."""
    table = font["GSUB"].table
    cmap = font.getBestCmap()
    kept = {cmap[c] for c in characters(SCRIPTS) | {0x210E} if c in cmap}
    for feature in table.FeatureList.FeatureRecord:
        if feature.FeatureTag != "ssty":
            continue
        for index in feature.Feature.LookupListIndex:
            for lookup in table.LookupList.Lookup[index].SubTable:
                lookup = getattr(lookup, "ExtSubTable", lookup)
                forms = lookup.alternates if hasattr(lookup, "alternates") else lookup.mapping
                for glyph in [glyph for glyph in forms if glyph not in kept]:
                    del forms[glyph]


def stretch_accents(font):
    """Gives the accents that stand by themselves the wide forms of those that combine, which MathML does not use: they have
    no width."""
    cmap = font.getBestCmap()
    variants = font["MATH"].table.MathVariants
    constructions = dict(zip(variants.HorizGlyphCoverage.glyphs, variants.HorizGlyphConstruction, strict=True))
    for spacing, combining in [(0x2C6, 0x302), (0x2C7, 0x30C), (0x2DC, 0x303), (0xAF, 0x305)]:
        construction = copy.deepcopy(constructions[cmap[combining]])
        construction.MathGlyphVariantRecord[0].VariantGlyph = cmap[spacing]
        if spacing == 0xAF:
            # A bar is put together: the next wider one would stick out over its neighbours.
            del construction.MathGlyphVariantRecord[1:]
        constructions[cmap[spacing]] = construction
    order = sorted(constructions, key=font.getGlyphID)
    variants.HorizGlyphCoverage.glyphs = order
    variants.HorizGlyphConstruction = [constructions[glyph] for glyph in order]
    variants.HorizGlyphCount = len(order)


def mend_connectors(font):
    """Some arrows have the connectors of their last part the wrong way round, or longer than the part, and browsers then do
    not put them together."""
    variants = font["MATH"].table.MathVariants
    least = variants.MinConnectorOverlap
    for construction in variants.HorizGlyphConstruction:
        parts = construction.GlyphAssembly.PartRecords if construction.GlyphAssembly else []
        for part in parts:
            part.StartConnectorLength = min(part.StartConnectorLength, part.FullAdvance)
            part.EndConnectorLength = min(part.EndConnectorLength, part.FullAdvance)
        for part, next_part in zip(parts, parts[1:]):
            if part.EndConnectorLength < least <= part.StartConnectorLength and part is parts[0]:
                part.StartConnectorLength, part.EndConnectorLength = part.EndConnectorLength, part.StartConnectorLength
            if next_part.StartConnectorLength < least <= next_part.EndConnectorLength and next_part is parts[-1]:
                connectors = next_part.EndConnectorLength, next_part.StartConnectorLength
                next_part.StartConnectorLength, next_part.EndConnectorLength = connectors


# How much wider than itself a radical or bracket may be where it is tall.
WIDENING = {0x221A: 1.08}
BRACKETS = [*"()[]{}", "\u2308", "\u2309", "\u230a", "\u230b", "\u27e8", "\u27e9"]
WIDENING |= {ord(bracket): 1.3 for bracket in BRACKETS}


def narrow_tall_forms(font):
    """Makes tall radicals and brackets narrower. Browsers leave room for the widest form of each, whichever they draw, so that
    every root in a line of text would be followed by a gap."""
    cmap, widths, outlines = font.getBestCmap(), font["hmtx"].metrics, font["glyf"]
    variants = font["MATH"].table.MathVariants
    constructions = dict(zip(variants.VertGlyphCoverage.glyphs, variants.VertGlyphConstruction, strict=True))
    for character, widening in WIDENING.items():
        name = cmap[character]
        construction = constructions[name]
        forms = {record.VariantGlyph for record in construction.MathGlyphVariantRecord} - {name}
        if construction.GlyphAssembly:
            forms |= {part.glyph for part in construction.GlyphAssembly.PartRecords}
        for form in forms:
            advance, bearing = widths[form]
            scale = widths[name][0] * widening / advance
            if scale < 1:
                outlines[form].coordinates.scale((scale, 1))
                outlines[form].recalcBounds(outlines)
                widths[form] = (round(advance * scale), round(bearing * scale))


def rename(font):
    """A font that was changed has a name of its own, and says what it was made of."""
    names = font["name"]
    source = f"A subset of {names.getDebugName(4)}, {names.getDebugName(5)}"
    for identifier, text in [(1, NAME), (3, f"{NAME}; {source}"), (4, NAME), (6, NAME.replace(" ", "")), (10, source)]:
        names.setName(text, identifier, 3, 1, 0x409)
    for identifier in (16, 17, 21, 22):
        names.removeNames(nameID=identifier)


def main(path):
    folder = Path(__file__).parent
    options = subset.Options()
    options.layout_features = ["ssty", "dtls", "flac"]
    options.hinting = False
    options.name_IDs = [0, 1, 3, 4, 5, 6, 10, 13, 14]
    options.flavor = "woff2"
    options.drop_tables += ["DSIG"]
    # The same bytes whenever it is made.
    options.recalc_timestamp = False
    font = subset.load_font(path, options)
    keep_script_forms(font)
    stretch_accents(font)
    mend_connectors(font)
    narrow_tall_forms(font)
    rename(font)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=characters(CHARACTERS))
    subsetter.subset(font)
    out = folder / "porism-math.woff2"
    subset.save_font(font, str(out), options)
    found = sorted(TTFont(out).getBestCmap())
    lines = "".join(f"{c:X}\n" for c in found)
    (folder / "characters.txt").write_text(lines)
    print(f"{out}: {out.stat().st_size} bytes, {len(found)} characters, {len(font.getGlyphOrder())} glyphs")


if __name__ == "__main__":
    main(sys.argv[1])
