"""The words captions are made of: synonyms for genres, textures, instruments, moods, tempi and keys.

Every genre has names (before a head noun or alone; the first ones weigh double), heads, and textures (things that do
sound in it; the second group only in pieces with drums); see also `scenes` and `pictures`.
"""

from __future__ import annotations

from typing import NamedTuple

from ssmttm.composer.scenes import phrases


class GenreWords(NamedTuple):
    names: tuple[str, ...]
    heads: tuple[str, ...]
    textures: tuple[str, ...]
    drum_textures: tuple[str, ...]


GENRE_WORDS: dict[str, GenreWords] = {
    "rock": GenreWords(
        phrases("""
            rock; rock; rock; hard rock; guitar rock; indie rock; alternative rock; garage rock; rock and roll;
            classic rock; punk rock; arena rock; blues rock; grunge; heavy metal; stadium rock; rock 'n' roll
        """),
        phrases("song; track; tune; anthem; jam; number; instrumental; stomper; rocker; riff"),
        phrases("""
            power chords; crunchy rhythm guitars; overdriven guitars; driving eighth-note bass; loud amps; heavy
            riffs; distorted rhythm guitar; palm-muted guitars; a wall of guitar distortion; a picked electric bass;
            guitar fuzz
        """),
        phrases("""
            a hard-hitting backbeat; a big drum kit; crashing cymbals; a straight rock beat; a hard-hitting drummer;
            tom fills
        """),
    ),
    "techno": GenreWords(
        phrases("""
            techno; techno; techno; electronic dance; EDM; club techno; dance; electronic; house; trance; rave; deep
            house; acid techno; minimal techno; electro; club music; big room; hard techno; electronica
        """),
        phrases("track; tune; banger; cut; loop; anthem; floor-filler; club tool; set opener"),
        phrases("""
            pulsing off-beat bass; synth stabs; a hypnotic sequence; repeating synth chords; electronic bass; a
            rolling synth bass; sequenced synthesizers; filter sweeps of synth chords; analogue synth pads
        """),
        phrases("""
            a four-on-the-floor kick; a thumping kick drum; a pounding club beat; off-beat open hats; a drum machine;
            a steady kick drum; machine claps; programmed drums
        """),
    ),
    "jazz": GenreWords(
        phrases("""
            jazz; jazz; jazz; swing; bebop; cool jazz; swinging jazz; lounge jazz; jazzy; jazz combo; hard bop;
            mainstream jazz; gypsy jazz; cocktail jazz; straight-ahead jazz; traditional jazz
        """),
        phrases("tune; number; standard; piece; track; instrumental; improvisation; chart"),
        phrases("""
            a walking double bass; seventh chords; ii-V-I changes; an upright bass; sparse comping chords; a walking
            bass line; a comping jazz guitar; rich extended harmony; swung eighth notes; an improvised line
        """),
        phrases("""
            a swinging ride cymbal; brushed drums; a swing beat; a jazz drummer keeping time; a ride cymbal; a hi-hat
            on two and four
        """),
    ),
    "classical": GenreWords(
        phrases("""
            classical; classical; classical; orchestral; chamber music; symphonic; baroque; romantic-era classical;
            Viennese classical; string orchestra; concert-hall; neoclassical; concerto
        """),
        phrases("piece; work; movement; sonata; serenade; composition; concerto; divertimento; suite; etude"),
        phrases("""
            Alberti figures; a string section; broken chords; sustained strings; a low string bass; orchestral
            strings; bowed basses below; an arpeggiated accompaniment; legato strings; flowing figuration
        """),
        (),
    ),
    "reggae": GenreWords(
        phrases("""
            reggae; reggae; reggae; roots reggae; dub; Jamaican reggae; rocksteady; island reggae; laid-back reggae;
            ska-flavoured reggae; lovers' reggae; dub reggae; beach reggae; Caribbean
        """),
        phrases("groove; tune; track; song; riddim; jam; version; skank"),
        phrases("""
            off-beat guitar chops; a skanking guitar; a bubbling organ; a deep melodic bass line; chords on the
            off-beat; a fat round bass; muted guitar upstrokes; a rhythm guitar on the off-beats; a big warm bass
        """),
        phrases("""
            a one-drop beat; a one-drop groove on the drums; rim shots on the third beat; a kick drum on beat three;
            side-stick drumming
        """),
    ),
    "country": GenreWords(
        phrases("""
            country; country; country; bluegrass; country and western; Nashville country; Americana; hillbilly; folk
            country; outlaw country; honky-tonk; western; alt-country; Appalachian folk; cowboy; old-time country
        """),
        phrases("tune; song; number; track; hoedown; ballad; instrumental; two-step; reel; breakdown"),
        phrases("""
            a boom-chick bass; strummed acoustic guitar; alternating bass notes; a strummed steel-string guitar;
            acoustic strumming; an upright bass going back and forth; root-fifth bass; a bright steel-string strum
        """),
        phrases("""
            a train beat; a brushed train-beat snare; a simple country drum beat; a shuffling snare drum; a snare like
            a rolling train
        """),
    ),
    "ambient": GenreWords(
        phrases("""
            ambient; ambient; ambient; atmospheric; new age; meditative; drone; chill-out; space ambient; deep
            ambient; ethereal; meditation; sleep; cinematic ambient; soundscape-like; relaxation
        """),
        phrases("soundscape; piece; track; texture; drift; background; meditation; backdrop; atmosphere"),
        phrases("""
            warm synth pads; long evolving pads; lots of reverb; slow washes of sound; soft bell-like arpeggios; a
            deep wash of reverb; a drone underneath; shimmering pads; glassy arpeggios; held synth tones; vast echoes
        """),
        phrases("a soft distant kick; a very sparse beat; a quiet shaker; a faint heartbeat of a kick drum"),
    ),
    "hip hop": GenreWords(
        phrases("""
            hip hop; hip hop; hip hop; hip-hop; boom bap; rap; lo-fi hip hop; lofi; old school hip hop; instrumental
            rap; trap; underground hip hop; east coast rap; west coast rap; conscious hip hop; gangsta rap
        """),
        phrases("beat; track; instrumental; loop; groove; joint; tune; rap beat; backing track"),
        phrases("""
            a deep 808 bass; a looped chord sample; mellow sampled chords; sub bass; a looped melody; heavy sub bass;
            soulful sampled chords; a hazy loop; a rumbling low end; looped electric keys
        """),
        phrases("""
            a boom-bap drum beat; head-nodding drums; a dusty kick and snare; a hard snare on two and four; sampled
            drums; a lazy drum break; skittering hi-hats
        """),
    ),
}

LEAD_WORDS: dict[str, tuple[str, ...]] = {
    "piano": phrases("piano; piano; piano; grand piano; acoustic piano; piano keys; upright piano"),
    "electric piano": phrases("""
        electric piano; electric piano; Rhodes; Rhodes piano; e-piano; Fender Rhodes; vintage electric piano
    """),
    "organ": phrases("organ; organ; organ; Hammond organ; drawbar organ; electric organ; Hammond; B3 organ"),
    "harmonica": phrases("harmonica; harmonica; harmonica; mouth organ; blues harp; wailing harmonica"),
    "acoustic guitar": phrases("""
        acoustic guitar; acoustic guitar; acoustic guitar; steel-string guitar; unplugged guitar; fingerpicked guitar;
        picked acoustic guitar
    """),
    "electric guitar": phrases("""
        electric guitar; electric guitar; electric guitar; distorted guitar; lead guitar; overdriven electric guitar;
        wailing guitar
    """),
    "banjo": phrases("banjo; banjo; banjo; five-string banjo; plucked banjo; banjo picking; twangy banjo"),
    "violin": phrases("violin; violin; violin; fiddle; solo violin; bowed violin"),
    "cello": phrases("cello; cello; cello; solo cello; violoncello; bowed cello; deep cello"),
    "trumpet": phrases("trumpet; trumpet; trumpet; solo trumpet; brass trumpet; horn; trumpet horn"),
    "saxophone": phrases("saxophone; saxophone; sax; sax; alto sax; alto saxophone; reedy saxophone"),
    "clarinet": phrases("clarinet; clarinet; clarinet; solo clarinet; woodwind clarinet; mellow clarinet"),
    "flute": phrases("flute; flute; flute; concert flute; solo flute; airy flute; breathy flute"),
    "vibraphone": phrases(
        "vibraphone; vibraphone; vibraphone; vibraphone bars; mallets; vibraphone mallets; ringing vibraphone"
    ),
    "choir": phrases("choir; choir; choir; choir voices; wordless vocals; singing voices; vocal choir; choral voices"),
    "synth lead": phrases("""
        synth lead; synth lead; synthesizer; saw lead; saw synth; lead synth; sawtooth synth; synth; sawtooth lead;
        analogue synth lead
    """),
}

MOOD_WORDS: dict[str, tuple[str, ...]] = {
    "happy": phrases("""
        happy; cheerful; joyful; bright; sunny; uplifting; feel-good; merry; optimistic; playful; exuberant; jolly;
        positive; carefree; high-spirited
    """),
    "calm": phrases("""
        calm; peaceful; gentle; relaxed; mellow; soothing; serene; easygoing; tranquil; warm; soft; relaxing; tender;
        chilled; lulling
    """),
    "dark": phrases("""
        dark; tense; intense; dramatic; brooding; menacing; moody; serious; stormy; ominous; gripping; aggressive;
        mysterious; sinister; urgent
    """),
    "sad": phrases("""
        sad; melancholic; wistful; sorrowful; somber; gloomy; lonely; mournful; melancholy; heartbroken; nostalgic;
        plaintive; bittersweet; tearful; downcast
    """),
}

TEMPO_WORDS: tuple[tuple[int, tuple[str, ...]], ...] = (  # words for tempi up to this many beats per minute
    (83, phrases("slow; slow; unhurried; leisurely; slow-paced; slowly moving; low-tempo; downtempo")),
    (113, phrases("mid-tempo; mid-tempo; medium-paced; moderately paced; steady; moderate; medium; walking-pace")),
    (139, phrases("brisk; upbeat; upbeat; lively; quick; spirited; driving; driving; bouncing")),
    (999, phrases("fast; fast; very fast; rapid; racing; fast-paced; high-speed; up-tempo; frantic; breakneck")),
)

KEY_WORDS: dict[str, tuple[str, ...]] = {
    "C#": ("C#", "C sharp", "Db", "D flat"),
    "Eb": ("Eb", "E flat", "E-flat", "D#"),
    "F#": ("F#", "F sharp", "F-sharp", "Gb"),
    "Ab": ("Ab", "A flat", "A-flat", "G#"),
    "Bb": ("Bb", "B flat", "B-flat", "A#"),
}
