"""What people write instead of a genre's name: pictures that stand alone, people it is likened to, adjectives.

As `scenes`, they name no lead instrument, drum, tempo or key.
"""

from __future__ import annotations

from ssmttm.composer.scenes import phrases

PICTURES: dict[str, tuple[str, ...]] = {
    "rock": phrases("""
        leather and sweat; amps on ten; three chords and an attitude; a wall of guitars; fuzz and feedback; big riffs;
        a stage full of Marshall stacks; whiskey and cigarettes; a band that means it; denim and noise; hair flying; a
        broken string; a roaring crowd; raw and loud; gritty guitars; a monster riff; guitars like chainsaws; spit and
        swagger; youth with nothing to lose; the tour bus; noise complaints; the loudest band in town; a power trio;
        distorted guitars; a garage with the door open; dirty boots on stage; anger and guitars; a crowd of thousands;
        black T-shirts and tattoos; classic album side
    """),
    "techno": phrases("""
        strobe lights and fog; concrete and neon; a kilowatt sound system; hands in the air; sequencers running wild;
        oscillators and filters; laser beams; pure machine; sweat dripping from the ceiling; a relentless pulse; cold
        steel; robots dancing; the DJ never stops; one loop, forever; acid lines; modular synthesizers; electronic
        hypnosis; build-up and drop; a dark room with red light; clubbing; trance-like repetition; dance floor heat;
        digital; circuits and wires; euphoria under lasers; tunnel vision; the sunrise set; industrial and mechanical;
        silver suits; futuristic
    """),
    "jazz": phrases("""
        smoke and whisky; a dim bar and a small stage; chords with too many notes; a walking bass line; black
        turtlenecks; a loosened bow tie; ice in a glass; late night in the city; blue smoke; cool and clever; a
        conversation between soloists; syncopation and swing; trading fours; improvisation; a midnight set; snapping
        fingers; fedora and trench coat; bourbon, neat; velvet curtains; rain on a neon sign; jukebox from the
        forties; a torn songbook; sophisticated harmony; a jazz cellar; swing feel; the second set; a trio in the
        corner; zoot suits; lindy hop
    """),
    "classical": phrases("""
        wigs and lace; the conductor lifts the baton; a hundred musicians in black; gilded balconies; bows and
        strings; counterpoint; a theme and its variations; a sonata in the drawing room; silk and candlelight; an
        orchestra tuning; a fugue; marble and velvet; a royal court; curtain up; the second movement; score and music
        stand; a duchess at her window; tailcoats; noble and refined; symphonic splendour; string quartet; an aria
        without words; courtly dances; a requiem; powdered faces; a night at the opera; heritage and grace; a prelude;
        chamber players; a grand overture
    """),
    "reggae": phrases("""
        palm trees and rum; red, gold and green; sand between your toes; speaker boxes in the street; irie; sunshine
        and smoke; turquoise water; peace, love, unity; a hammock; guitar on the off-beat; the bass is king; tape
        echo; good vibrations; positive vibes; dreads; Jah; a beach shack; warm wind; rolling waves; island breeze;
        mango juice; skank; rub-a-dub; easy living; a fisherman mending nets; roots and culture; rastafari; a lazy
        Sunday by the sea; bubbling and bouncing; tropical heat
    """),
    "country": phrases("""
        boots and spurs; hay and horses; a dusty trail; wide open plains; whiskey and tears; a tumbleweed; heartland;
        cornfields; a pickup and a dog; denim and rhinestones; a steel-string and a story; rawhide; a freight train in
        the distance; a wooden porch; home cooking; sweet tea; saddle and lasso; twang; a lonesome whistle; barn door
        wide open; the old homestead; cattle and dust; a cowboy hat; mountain folk; hoedown; down-home; backwoods;
        gravel roads; sunset over the ranch; red barn
    """),
    "ambient": phrases("""
        silence and light; drifting; weightless; a slow breath; stillness; floating; an endless horizon; soft fog;
        stars; deep blue; waves of sound; a cloud; sleep; dissolving; nothing but air; inner peace; zen; space between
        the notes; a distant shimmer; glowing pads; no beginning and no end; cosmic dust; hazy; moonlight on snow; the
        void; ethereal; dreamlike; timeless; underwater; an aurora
    """),
    "hip hop": phrases("""
        bars and rhymes; vinyl crackle; hoodie weather; concrete and graffiti; sneakers on asphalt; head nod; a
        boombox; a sampled loop; mic check; turntables; street poetry; bass in the trunk; gold chain; the cypher;
        sampler and headphones; beat tape; flow; swagger; urban night; a lyricist's notebook; crate digging; lo-fi
        haze; rainy window and homework; spray cans; park bench at midnight; low end that rattles the car; b-boys;
        scratching; sixteen bars
    """),
}

LIKENESSES: dict[str, tuple[str, ...]] = {
    "rock": phrases("""
        Led Zeppelin; Nirvana; the Rolling Stones; Jimi Hendrix; Queen; Deep Purple; the Ramones; Foo Fighters; Chuck
        Berry; Guns N' Roses; the Who; Pearl Jam; Black Sabbath; the Strokes; Metallica; Green Day; Van Halen; the
        Clash; Arctic Monkeys; Muse
    """),
    "techno": phrases("""
        Jeff Mills; Kraftwerk; Underworld; the Prodigy; Carl Cox; Juan Atkins; Aphex Twin with a club bass; Paul van
        Dyk; Deadmau5; Tiesto; Richie Hawtin; the Chemical Brothers; Derrick May; Sven Vaeth; Charlotte de Witte;
        Faithless; Orbital; Nina Kraviz; David Guetta; Robert Hood
    """),
    "jazz": phrases("""
        Duke Ellington; John Coltrane; Charlie Parker; Bill Evans; Dave Brubeck; Thelonious Monk; Chet Baker; Louis
        Armstrong; Count Basie; Herbie Hancock; Wes Montgomery; Django Reinhardt; Stan Getz; Oscar Peterson; Dizzy
        Gillespie; Sonny Rollins; Charles Mingus; Ella Fitzgerald's band; Art Blakey; Benny Goodman
    """),
    "classical": phrases("""
        Mozart; Bach; Haydn; Schubert; Brahms; Tchaikovsky; Chopin; Handel; Mendelssohn; Dvorak; Schumann; Debussy;
        Mahler; Wagner; Liszt; Grieg; Strauss; Telemann; Rachmaninoff; Ravel
    """),
    "reggae": phrases("""
        Peter Tosh; Jimmy Cliff; Toots and the Maytals; Burning Spear; King Tubby; Lee Perry; UB40; Gregory Isaacs;
        the Wailers; Desmond Dekker; Steel Pulse; Black Uhuru; Dennis Brown; Augustus Pablo; Third World; Eek-A-Mouse;
        Sly and Robbie; Israel Vibration; Culture; Ziggy Marley
    """),
    "country": phrases("""
        Willie Nelson; Hank Williams; Waylon Jennings; Patsy Cline; Garth Brooks; Merle Haggard; Shania Twain; Bill
        Monroe; Loretta Lynn; George Strait; Kenny Rogers; Alan Jackson; Chet Atkins; the Carter Family; Earl Scruggs;
        Tammy Wynette; Townes Van Zandt; Alison Krauss; Glen Campbell; Luke Combs
    """),
    "ambient": phrases("""
        Harold Budd; Stars of the Lid; Tangerine Dream; Steve Roach; Vangelis; Enya; Sigur Ros; William Basinski;
        Jean-Michel Jarre at rest; Hiroshi Yoshimura; Tim Hecker; Robert Rich; Klaus Schulze; Biosphere; Grouper;
        Marconi Union; Laraaji; Max Richter for sleep; Loscil; Carbon Based Lifeforms
    """),
    "hip hop": phrases("""
        J Dilla; Wu-Tang Clan; A Tribe Called Quest; DJ Premier; Dr. Dre; Tupac; the Notorious B.I.G.; Run-DMC;
        Kendrick Lamar; Nujabes; Madlib; Jay-Z; Eminem; Public Enemy; Snoop Dogg; Kanye West; Mobb Deep; Outkast; MF
        DOOM; De La Soul
    """),
}

ADJECTIVES: dict[str, tuple[str, ...]] = {
    "rock": phrases("""
        loud; distorted; rebellious; gritty; raw; electric; heavy; crunchy; riff-driven; anthemic; rowdy; fuzzy;
        guitar-heavy; hard-hitting; snarling; overdriven; arena-sized; grungy; punky; amped-up
    """),
    "techno": phrases("""
        electronic; hypnotic; pounding; mechanical; synthetic; clubby; robotic; repetitive; relentless; pumping;
        ravey; futuristic; danceable; industrial; acidic; computer-made; banging; sequenced; laser-lit; minimal
    """),
    "jazz": phrases("""
        swinging; smoky; improvised; sophisticated; bluesy; syncopated; cool; late-night; boppy; loungy; jazzy;
        classy; smooth; suave; nocturnal; finger-snapping; noir; after-hours; cosmopolitan
    """),
    "classical": phrases("""
        orchestral; elegant; refined; symphonic; stately; noble; graceful; baroque; courtly; aristocratic; lyrical;
        concert-hall; solemn; cultivated; ornate; old-European; majestic; formal; regal; chamber-like
    """),
    "reggae": phrases("""
        skanking; sun-soaked; Jamaican; tropical; laid-back; island-style; Caribbean; rootsy; bouncy; dubby; chilled;
        bass-heavy; beachy; off-beat; irie; swaying; carefree; sun-drenched; easy-going; echoing
    """),
    "country": phrases("""
        twangy; rustic; down-home; folksy; southern; western; cowboy; old-time; rural; Appalachian; dusty; homespun;
        foot-stomping; honest; prairie; backwoods; plainspoken; Nashville-style; boot-scooting
    """),
    "ambient": phrases("""
        floating; ethereal; drifting; spacious; weightless; dreamy; hazy; atmospheric; cosmic; still; meditative;
        glacial; hypnagogic; celestial; formless; immersive; reverberant; airy; misty; enveloping
    """),
    "hip hop": phrases("""
        head-nodding; urban; dusty; street-wise; lo-fi; bass-heavy; sample-based; gritty; boom-bap; old-school;
        smoked-out; loop-based; swaggering; chilled; hazy; vinyl-worn; bumping; grimy
    """),
}
