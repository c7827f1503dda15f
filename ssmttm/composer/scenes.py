"""Uses and places that stand for a genre without naming it. `SCENES` follow `music`: what it is for, where it comes
from; `PLACES` follow `what you hear`. They name no lead instrument, drum, tempo or key: a piece may have another one.
"""

from __future__ import annotations


def phrases(text: str) -> tuple[str, ...]:
    """The entries of a list written as running text, parted by semicolons."""
    return tuple(" ".join(entry.split()) for entry in text.split(";"))


SCENES: dict[str, tuple[str, ...]] = {
    "rock": phrases("""
        for a stadium full of people; for a loud band in a garage; for a long drive with the windows down; played by a
        band with loud amplifiers; for a motorbike on the open road; for the encore of a live concert; for a teenager
        with a first guitar; for air guitar in front of the mirror; with the attitude of a leather jacket; for jumping
        up and down in the front row; with an electric band at full volume; for a skate park; for a rebel on a
        highway; for a mosh pit; for stage diving; for a battle of the bands; for a sports montage; for a wrestler
        walking into the ring; for slamming the bedroom door; for smashing things on stage; for a college radio
        station; for a festival field full of mud; for bikers at a roadside bar; for fists in the air; for long hair
        and torn jeans; with the energy of a garage rehearsal; from the age of vinyl albums and long solos; from the
        British invasion; from the grunge years; for a coming-of-age film; for a car chase; for a crowd singing along
        with lighters held up; for a rowdy pub; from a band of four angry kids; for shouting along in the car; in the
        tradition of Woodstock; with feedback howling from the amplifiers; for the last song before the lights go out;
        for a racing video game; for a beer commercial with a swagger
    """),
    "techno": phrases("""
        for a packed dance floor; for a dark warehouse at three in the morning; for a nightclub with strobe lights;
        for a rave; for a DJ set at peak time; to dance to all night; for a festival main stage with lasers; for a
        workout on the treadmill; for a peak-hour crowd under laser light; with the energy of a big club; made with
        machines and sequencers; for a futuristic city at night; for dancers who never stop; for a neon-lit night out;
        for an illegal party in an abandoned factory; for an after-hours club; for the moment before the drop; for
        clubbers with their hands in the air; for a running playlist; for a spinning class; for a light show; for a
        catwalk; for a cyberpunk video game; for a hacker film; for a robot on an assembly line; from the second
        summer of love; from the early rave years; from a bedroom producer with a stack of synthesizers; for losing
        yourself on the floor until morning; for a beach club after sunset; for a long mix between two turntables;
        programmed on a computer; for fog machines and flashing lights; for a drive through a tunnel at night; for a
        party that goes on until noon; for aerobics; for a glow-stick crowd; for sweaty bodies in a basement; with an
        endless mechanical loop in it; for a street parade with trucks of loudspeakers
    """),
    "jazz": phrases("""
        for a smoky bar late at night; for a cocktail lounge; for a small cellar club with candles on the tables;
        played by a quartet in evening dress; for a black-and-white detective film; for a supper club in New York; for
        a glass of whisky after midnight; for a jam session after hours; with the mood of a nineteen-fifties
        nightclub; for a hotel bar with dim lights; for a walk through Harlem at night; for improvising soloists; for
        a sophisticated dinner party; for a wine bar; for a date at a little bistro; for a film noir; for a private
        eye in a trench coat; for a Woody Allen film; for a big-city skyline at night; for a ballroom of lindy
        hoppers; for swing dancers; for a parade on Bourbon Street; for a cool cat in sunglasses; for a bookshop with
        old records; for tapping your fingers on the table; for people who like clever harmony; from the big band
        years; from the bebop years on 52nd Street; from the roaring twenties; played by a trio in a corner of the
        room; where every player takes a turn; for an art gallery opening; for cooking dinner with a glass of wine;
        for a lazy Sunday brunch; with a cigarette and a martini; for a night train across Europe; for a rooftop
        terrace at dusk; with blue notes and surprising chords; for beat poets
    """),
    "classical": phrases("""
        for a concert hall; for a period drama; for a film score with an orchestra; for a string orchestra and
        soloist; for a ballroom with chandeliers; for a candlelit recital; from the time of Mozart; for a grand
        opening scene with strings; played by an orchestra in tailcoats; for a royal palace; for a quiet hour in a
        library; for a ballet; for a museum full of old paintings; with the elegance of Vienna; for an opera house;
        for a coronation; for a royal wedding; for a state banquet; for a minuet at court; for a countess and her
        music teacher; for a conductor with a baton; from the eighteenth century; from the age of powder and lace;
        from the romantic century; for a salon in old Paris; for a church at Easter; for a Jane Austen film; for a
        garden party with parasols; for a chess game by the fireplace; for a nobleman's dining room; for a string
        quartet in black; for a conservatory exam; for an audience in evening gowns; for a marble hall; for a night at
        the philharmonic; written with quill and ink; for a historical film about kings; for a pas de deux; for a
        requiem mass; for an advert for a luxury watch; for studying an old score
    """),
    "reggae": phrases("""
        for a beach in Jamaica; for a hammock between palm trees; for a sound system in Kingston; for a sunny
        afternoon on an island; with Caribbean sunshine in it; for a beach bar with rum and lime; for swaying barefoot
        in the sand; for a lazy day at the seaside; with good vibes and a lazy sway; for a barbecue in the Caribbean;
        for a rasta with a smile; for surfing and sunshine; for a holiday in the tropics; for peace and love and
        unity; for a yard in Trenchtown; for the red, gold and green; for a fishing boat in a turquoise bay; for a
        summer festival by the sea; for a fruit stand by the road; for a beach bonfire; for a bus ride through the
        Blue Mountains; from the golden years of Studio One; from an island with palm trees; for coconuts and mangoes;
        for a jerk chicken stand; for praising Jah; for nodding in the shade; for a surf shop; for taking it easy in
        the heat; for a smoke on the veranda; for skanking side to side; with bass that shakes the speaker boxes; with
        echo on everything; for the Notting Hill carnival; for a cruise ship pool deck; for a cocktail with a little
        umbrella; for rebels and prophets of Zion; for a seaside cafe in summer; for a sailing trip; for flip-flops
        and a straw hat
    """),
    "country": phrases("""
        for a campfire under the stars; for a barn dance; for a ranch at sundown; for a front porch in Tennessee; for
        cowboys and a saloon; for a pickup truck on a dirt road; for a rodeo; for line dancing in boots; for a road
        trip through Texas; for a farm at harvest time; for a rocking chair and a straw hat; for a square dance; for
        the wild west; with the twang of the American South; for a county fair; for a cattle drive; for a trucker on
        the interstate; for a wagon train going west; for the Grand Ole Opry; for a hayride; for a backyard with a dog
        and a lemonade; for a diner off Route 66; for a moonshiner in the hills; for a log cabin in the Smoky
        Mountains; for a harvest festival; for a rider in a ten-gallon hat; for a small town on Main Street; for a
        Sunday in Alabama; for a general store; for a swimming hole in summer; from the hills of Kentucky; from the
        Appalachian mountains; from the heart of Nashville; for a western film; for a gold rush town; for a tailgate
        party; for a girl in denim and boots; for a sheriff and his horse; for a heartbroken man and his dog; for
        clapping along in the hay
    """),
    "ambient": phrases("""
        for meditation; for floating through space; for falling asleep; for a yoga class; for mist over a still lake;
        for stars drifting past a spaceship window; for a spa; for watching clouds go by; for deep relaxation; for
        breathing in and out slowly; for an empty cathedral at night; for dreaming with open eyes; for outer space;
        for snow falling in silence; for a documentary about the deep sea; for a massage; for a planetarium; for
        reading in bed; for an aquarium; for mindfulness; for a sleeping child; for a sound bath; for an art
        installation; for a long night flight above the clouds; for the polar night; for rain on a window; for
        healing; for a nature film with whales; for the slow turning of galaxies; for doing nothing at all; for a
        sunrise seen from a mountain; for a walk through a misty forest; for letting go of all thoughts; for a
        science-fiction film set on a distant planet; for a waiting room; without any hurry or melody to follow; that
        fills a room like light; made of long held tones; for concentrating without noticing it; for drifting under
        water; for lying on the floor in the dark
    """),
    "hip hop": phrases("""
        for a rapper to freestyle over; for studying late at night; for a street corner in Brooklyn; for a
        head-nodding ride through the city; for a basketball court in summer; for graffiti and breakdancing; for
        rhymes and a microphone; for rapping; for chilling on a rainy afternoon; with a laid-back urban swagger; for
        skating home through the city at dusk; for a mixtape; for producers with a sampler and a stack of vinyl; for a
        cypher in the park; for an MC with something to say; for a rap battle; for b-boys on cardboard; for a block
        party in the Bronx; for a low rider with the bass turned up; for a boombox on the shoulder; for gold chains
        and sneakers; for the subway at night; for street dancers; for a verse and a hook; for writing bars in a
        notebook; for a crew on the stoop; for spoken rhymes; for a homework session; for a late-night coding session;
        for the streets of Compton; from the golden age of sampling; from a dusty crate of old soul records; with
        vinyl crackle all over it; for a sneaker commercial; for a gangster film; for a barber shop in Harlem; for a
        hooded kid with headphones; for a lyricist; for a playlist of chilled study music
    """),
}

PLACES: dict[str, tuple[str, ...]] = {
    "rock": phrases("""
        at a sold-out arena; in a sweaty little venue; in my older brother's bedroom; at an open-air festival; on an
        FM station in the seventies; at a biker rally; in a rehearsal room with egg boxes on the walls; in a dive bar
        with a stage; backstage before the show; on a road trip with the boys; at a skate contest; in a pub with a
        live band; on MTV in the nineties; at the top of the charts in 1969; in a guitar shop
    """),
    "techno": phrases("""
        in a Berlin club; at a warehouse party; on a dance floor at four in the morning; at a festival under lasers;
        in an underground bunker; in Detroit in the eighties; in Ibiza; at the Love Parade; on a pirate radio rave
        show; in a fitness studio; at an open-air rave in the woods; in a nightclub queue; in a DJ booth; in Frankfurt
        or Rotterdam in the nineties; inside a computer
    """),
    "jazz": phrases("""
        in a basement club in Manhattan; at the Village Vanguard; at the Cotton Club; in New Orleans; in a cocktail
        bar; in a hotel lobby; on a rainy street in an old film; in a Paris cellar in the fifties; at a jam session;
        on a Blue Note record; at Montreux; in a speakeasy; on late-night radio; at a dinner dance; in an elevator of
        a very good hotel
    """),
    "classical": phrases("""
        at the opera; at court in Versailles; in a concert hall in Salzburg; at a royal ball; in a cathedral; at a
        symphony concert; in a music academy; on the classical station; in a Bavarian castle; at the ballet; in an
        English manor; at a chamber recital; in Leipzig in the eighteenth century; in a Saint Petersburg theatre;
        during a solemn ceremony
    """),
    "reggae": phrases("""
        on a beach in Negril; in Kingston; at a beach bar; on a Caribbean island; in a Jamaican yard; at a sound
        clash; in Montego Bay; on a sailing boat in the tropics; at a summer beach party; in Brixton in the seventies;
        in a rum shack; by the sea at sunset; under palm trees; on holiday in Barbados; at Sunsplash
    """),
    "country": phrases("""
        in a Nashville bar; on a ranch in Wyoming; at a rodeo; in a saloon; at a barn dance; on the front porch; down
        in Georgia; in a truck stop; in Texas; around a campfire on the prairie; at the county fair; in Oklahoma; in
        the mountains of Virginia; on a farm; on AM radio in the South
    """),
    "ambient": phrases("""
        in a yoga studio; in a float tank; at a planetarium; in a dream; in deep space; at the bottom of the ocean; in
        an empty gallery; in a temple garden; in a spa; under the northern sky; above the clouds; in a sleep app; in
        the stillness before dawn; on a frozen lake; in zero gravity
    """),
    "hip hop": phrases("""
        on a block in Brooklyn; in the Bronx in the eighties; at a rap battle; on a mixtape; in a low rider; on a Los
        Angeles boulevard; in a bedroom studio with a sampler; at a b-boy contest; on a study stream; on the subway;
        in Atlanta; at a street basketball game; in a record shop full of old soul; on the stoop; in a lofi playlist
    """),
}
