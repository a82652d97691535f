// The sentences of the stories.
//
// A plot is a list of beats, and a beat is a list of alternative sentences with slots.

export const openings = [
  "Once upon a time, there was {a mood} {kind} named {hero}.",
  "Once upon a time, {a mood} {kind} named {hero} lived in {a home}.",
  "Once upon a time, in {a home}, there lived {a mood} {kind}. {His} name was {hero}.",
  "There once was {a mood} {kind} named {hero} who lived in {a home}.",
  "Long ago, {a mood} {kind} named {hero} lived in {a home}.",
];

export const love = [
  "{He} had {a toy} and loved it very much.",
  "{His} favorite thing was {a toy}.",
  "{Hero} took {his} {toy} with {him} everywhere.",
  "Every day {he} played with {his} {toy}.",
  "{His} grandmother had given {him} {a toy}.",
  "Of all {his} things, {he} liked {his} {toy} best.",
];

const day = [
  "One {weather} day, {hero} went to the {where}.",
  "One {weather} morning, {he} walked to the {where}.",
  "On a {weather} day, {hero} and {his} {toy} were at the {where}.",
  "One {weather} afternoon, {hero} played at the {where}.",
  "On {weekday}, {hero} went to the {where} with {his} {toy}.",
];

const meets = [
  "Then {friend} the {friendKind} came by.",
  "Just then, {he} met {a friendKind} named {friend}.",
  "{A friendKind} named {friend} heard {him}.",
  "Soon {friend} the {friendKind} came to see what was wrong.",
  "Near the {where} lived {a friendKind} named {friend}. {friend} saw {hero} and stopped.",
];

const asks = [
  '"Why are you so sad?" asked {friend}.',
  '"What is wrong, {hero}?" {friend} said.',
  '"Can I help you?" asked {friend}.',
  '"Do not be sad, {hero}," said {friend}. "What happened?"',
  '"Tell me what happened," said {friend}.',
];

const endings = [
  "From that day on, {hero} and {friend} were best friends.",
  "{Hero} and {friend} laughed and went home together.",
  "{Hero} was very happy. {He} never forgot that day.",
  "That night, {hero} slept well and dreamed of {friend}.",
  "And so {hero} and {friend} lived happily in the {home}.",
  "When the stars came out, {hero} told {his} mother all about it.",
  "After that, {friend} came to visit {hero} every {weekday}.",
];

const lessons = [
  "{Hero} learned that it is good to ask for help.",
  "{Hero} learned that friends make everything better.",
  "{Hero} learned to never give up.",
  "{Hero} learned that a good friend is worth more than gold.",
];

const thanks = [
  '"Thank you, {friend}!" said {hero}.',
  "{Hero} hugged {friend} and thanked {friendHim}.",
  '"You are a true friend," {hero} told {friend}.',
];

export const plots = [
  // The lost toy.
  [
    love,
    day,
    [
      "But when {he} came home, the {toy} was gone!",
      "Suddenly, {he} could not find the {toy}.",
      "There {he} lost {his} {toy}.",
    ],
    [
      "{Hero} looked everywhere, but it was not there.",
      "{He} searched and searched, and then {he} began to cry.",
      "{Hero} was very sad.",
    ],
    meets,
    asks,
    ['"I lost my {toy}," said {hero}.', '"My {toy} is gone," {he} said.'],
    [
      "They looked for it together, and {friend} found it {spot}.",
      "{friend} helped {him} look. At last, they saw the {toy} {spot}!",
      '"I saw {a toy} {spot}," said {friend}. And there it was!',
    ],
    thanks,
    endings,
  ],
  // The toy in the tree.
  [
    love,
    day,
    [
      "A strong wind came and blew the {toy} into a tall tree.",
      "{He} threw the {toy} too high, and it got stuck in a tree.",
    ],
    [
      "{Hero} jumped and jumped, but {he} could not reach it.",
      "{He} tried to climb the tree, but {he} was too small.",
    ],
    meets,
    asks,
    ['"My {toy} is in the tree," said {hero}.', "{Hero} pointed up at the {toy}."],
    [
      "{friend} brought a long ladder, and {hero} climbed up to get the {toy}.",
      "{friend} shook the tree, and the {toy} fell down.",
      "{friend} had a long stick and pushed the {toy} down with it.",
    ],
    thanks,
    lessons,
    endings,
  ],
  // The missing ingredient.
  [
    [
      "{Hero} wanted to make {a treat} for {his} mother.",
      "One {weather} day, {hero} wanted to make {a treat} for {friend} the {friendKind}.",
    ],
    [
      "{He} looked in the kitchen, but there {isMissing} no {missing}.",
      "But {he} did not have any {missing}.",
    ],
    [
      '"I cannot make the {treat} without {missing}," {he} said.',
      '"Oh no!" said {hero}. "What can I do?"',
    ],
    [
      "So {he} went to {friend}, who lived next door.",
      "{Hero} put on {his} hat and walked to the house of {friend}.",
    ],
    [
      '"Do you have some {missing}?" asked {hero}.',
      '"I need {missing} for my {treat}," {he} said.',
    ],
    [
      '"Yes, I do," said {friend}, and gave {him} a basket of {missing}.',
      "{friend} smiled and gave {him} all the {missing} {he} needed.",
    ],
    [
      "{Hero} ran home and made the {treat}.",
      "They made the {treat} together, and it smelled very good.",
    ],
    [
      "Then {hero} and {friend} sat down and ate the {treat}.",
      "{Hero} gave {friend} a big piece of the {treat}.",
    ],
    endings,
  ],
  // Learning a skill.
  [
    [
      "{Hero} wanted to learn to {skill}.",
      "More than anything, {he} wished that {he} could {skill}.",
    ],
    [
      "{He} tried, but it was very hard.",
      "The first time {he} tried, {he} fell down.",
      "{Hero} tried once, and twice, but it did not work.",
    ],
    [
      '"I will never learn to {skill}," {he} said.',
      "{He} sat down and felt sad.",
      '"It is too hard for me," said {hero}.',
    ],
    meets,
    [
      '"I can show you," said {friend}.',
      '"Do not give up," said {friend}. "Try again!"',
      '"I could not {skill} at first, too," {friend} told {him}.',
    ],
    [
      "Every day, {friend} and {hero} practiced together.",
      "{Hero} practiced all week, and {friend} helped {him}.",
    ],
    [
      "At last, {hero} could {skill} all alone!",
      "Then, one {weather} day, {he} did it! {Hero} could {skill}.",
    ],
    ['"I did it!" {he} shouted.', "{friend} clapped and cheered.", "Everybody was proud of {him}."],
    lessons,
    endings,
  ],
  // The gift.
  [
    [
      "It was the birthday of {friend} the {friendKind}, and {hero} had no gift.",
      "{Hero} wanted to give {friend} the {friendKind} something for {friendHis} birthday.",
    ],
    [
      "{He} had no money to buy a gift.",
      "{He} went to the {where}, but {he} found nothing.",
      "{He} thought and thought.",
    ],
    [
      "Then {he} had an idea. {He} would make {a toy}!",
      '"I know!" said {hero}. "I will make {a toy}."',
    ],
    [
      "{Hero} worked all day until the {toy} was ready.",
      "{He} took wood and paint and worked until night.",
    ],
    [
      "{He} gave the {toy} to {friend}.",
      '"This is for you," said {hero}, and gave {friend} the {toy}.',
    ],
    [
      '"It is the best gift of all," said {friend}.',
      "{friend} loved the {toy} and hugged {hero}.",
      '"Did you make this {toy}?" asked {friend}. "It is wonderful!"',
    ],
    endings,
  ],
  // The noise in the night.
  [
    [
      "One night, {hero} heard a noise {spot}.",
      "One dark night, {he} woke up. There was a noise {spot}.",
    ],
    ["{He} was afraid.", "{His} heart beat fast.", '"Who is there?" {he} asked. Nobody answered.'],
    [
      "{Hero} took a lamp and went to look.",
      "But {hero} was brave. {He} lit a candle and went to see.",
    ],
    [
      "There was {friend} the {friendKind}, cold and wet from the rain.",
      "It was only {a friendKind} named {friend}, who was lost.",
    ],
    [
      '"I am cold and I cannot find my way home," said {friend}.',
      '"Please let me stay here," said {friend}.',
    ],
    [
      "{Hero} gave {friendHim} a warm blanket and some {treat}.",
      "{Hero} made a fire, and they shared some {treat}.",
    ],
    [
      "In the morning, {hero} showed {friendHim} the way home.",
      "The next day, they walked to the {where} and found the home of {friend}.",
    ],
    [
      '"You are a true friend," {friend} told {hero}.',
      '"Thank you, {hero}!" said {friend}.',
      "{friend} hugged {hero} and thanked {him}.",
    ],
    endings,
  ],
  // Sharing.
  [
    love,
    [
      "One {weather} day, {friend} the {friendKind} wanted to play with the {toy}, too.",
      "At the {where}, {he} met {friend} the {friendKind}. " +
        '"Can I play with your {toy}?" asked {friend}.',
    ],
    ['"No, it is mine!" said {hero}.', "But {hero} did not want to share."],
    ["{friend} was sad and went away.", "So {friend} sat down alone and cried."],
    [
      "{Hero} played alone, but it was no fun.",
      "Soon {hero} felt sorry.",
      "{Hero} looked at {his} {toy}. {He} did not feel happy.",
    ],
    [
      "{He} ran to {friend} and gave {friendHim} the {toy}.",
      '"I am sorry," {he} told {friend}. "Let us play together."',
    ],
    [
      "They took turns with the {toy} until the sun went down.",
      "They played with the {toy} all day long.",
    ],
    ["{Hero} learned that it is good to share.", "{Hero} learned that sharing is more fun."],
    endings,
  ],
  // The lost way.
  [
    [
      "One {weather} day, {hero} went into the woods to pick berries.",
      "{Hero} took {his} {toy} and went into the woods.",
    ],
    [
      "{He} walked and walked, and soon {he} was lost.",
      "It grew dark, and {he} could not find the way home.",
    ],
    ['"Where is my home?" {he} cried.', "{Hero} sat down under a tree and cried."],
    meets,
    [
      '"Follow the river," said {friend}. "It will take you home."',
      '"I know the woods," said {friend}. "Come with me!"',
      '"Look at the stars," said {friend}. "They show the way."',
    ],
    [
      "Together they walked until they saw a light. It was the house of {hero}!",
      "{Hero} and {friend} walked all night and came home in the morning.",
    ],
    ["{His} mother ran to the door and hugged {him}.", "{His} family was so glad to see {him}."],
    thanks,
    endings,
  ],
  // The seed.
  [
    [
      "One {weather} day, {hero} found a small seed {spot}.",
      "{Friend} the {friendKind} gave {hero} a small seed.",
    ],
    [
      "{He} put it into the ground and gave it water.",
      "{Hero} made a hole in the garden and put the seed into it.",
    ],
    [
      "{He} waited and waited, but nothing grew.",
      "Every morning {he} looked, but there was only brown earth.",
      '"Why does it not grow?" asked {hero}.',
    ],
    [
      '"You have to wait," said {friend}. "Good things take time."',
      '"Give it water and sun," said {friend}, "and wait."',
    ],
    ["So {hero} gave it water every day.", "{Hero} nodded and waited for many days."],
    [
      "Then, one {weather} morning, there was a small green leaf!",
      "At last, a little plant came out of the ground.",
    ],
    [
      "It grew and grew, and soon it was a tall tree full of {fruit}.",
      "It grew into a {color} flower, and everybody came to see it.",
    ],
    ["{Hero} learned to wait.", "{Hero} learned that good things take time."],
    endings,
  ],
  // The race.
  [
    [
      "There was a big race at the {where}, and {hero} wanted to win it.",
      "On {weekday}, there was a race near the {home}, and {hero} was there, too.",
    ],
    [
      "{Friend} the {friendKind} was the fastest of all.",
      "But nobody was as fast as {friend} the {friendKind}.",
    ],
    [
      "{Hero} ran as fast as {he} could.",
      "They all began to run. {Hero} was right behind {friend}.",
    ],
    [
      "Suddenly, {friend} fell and hurt {friendHis} leg.",
      "But then {friend} fell over a stone and could not get up.",
    ],
    [
      "{Hero} could win now! But {he} stopped.",
      "{Hero} looked at the end of the road, and then {he} looked at {friend}.",
    ],
    [
      '"Take my hand," said {hero}, and helped {friendHim} up.',
      "{He} went back and helped {friendHim} walk.",
    ],
    [
      "They came in last, but everybody clapped.",
      "Together they walked to the end, and all the people cheered.",
    ],
    [
      '"You did not win the race, but you won a friend," said {friend}.',
      '"Thank you, {hero}," said {friend}. "You are the real winner."',
    ],
    endings,
  ],
  // The broken bridge.
  [
    [
      "One {weather} day, {hero} wanted to visit {friend} the {friendKind} " +
        "on the other side of the river.",
      "{Friend} the {friendKind} lived on the other side of the river, " +
        "and {hero} wanted to see {friendHim}.",
    ],
    ["But the old bridge was broken.", "But when {he} came to the river, the bridge was gone."],
    ["The water was deep and cold.", '"How can I get to the other side?" said {hero}.'],
    [
      "{He} shouted, and {friend} came to the river.",
      "{Friend} saw {him} from {friendHis} window and came out.",
    ],
    ['"Let us build a new bridge!" said {friend}.', '"We can make a boat," said {friend}.'],
    [
      "{Hero} brought wood, and {friend} brought a rope.",
      "They cut wood and tied it with a long rope.",
    ],
    ["They worked until the sun went down.", "It was hard work, but they did not stop."],
    [
      "At last, {hero} came over the river, and they ate some {treat} together.",
      "In the end, {hero} was on the other side, and {friend} hugged {him}.",
    ],
    endings,
  ],
  // The old key.
  [
    [
      "One {weather} day, {hero} found an old key {spot}.",
      "While {he} was playing, {hero} saw something {spot}. It was an old key!",
    ],
    ['"What does it open?" {he} asked.', "{Hero} wanted to know what it could open."],
    [
      "{He} tried the door of the house, but the key was too small.",
      "{He} tried every door, but the key did not fit.",
    ],
    [
      "Then {he} showed it to {friend} the {friendKind}.",
      "{Hero} took the key to {friend} the {friendKind}, who knew many things.",
    ],
    [
      '"I know this key," said {friend}. "It opens a box at the {where}."',
      '"Come with me to the {where}," said {friend}. "I will show you."',
    ],
    [
      "They went to the {where} and found a small box.",
      "{Friend} pointed at a dusty box in the corner.",
    ],
    [
      "{Hero} put the key into the lock and opened it. Inside was {a toy}!",
      "The key fit! In the box they found {a toy}.",
    ],
    [
      '"You can keep the {toy}," said {friend}.',
      "{Friend} smiled. The {toy} had been lost for many years.",
    ],
    endings,
  ],
  // The hurt creature.
  [
    [
      "One {weather} day, {hero} heard a soft sound {spot}.",
      "On the way home from the {where}, {hero} heard a soft cry.",
    ],
    [
      "It was a little {creature} with a hurt leg.",
      "There sat a small {creature}. It could not walk.",
    ],
    ['"Poor little {creature}," said {hero}.', "{Hero} was sorry for the {creature}."],
    [
      "{He} took the {creature} home and gave it some milk.",
      "{He} carried the {creature} home in {his} {color} hat.",
    ],
    [
      "{Friend} the {friendKind} was a doctor and looked at its leg.",
      "{Hero} asked {friend} the {friendKind} for help, and {friend} made a small bandage.",
    ],
    [
      "Every day {hero} took care of the {creature}.",
      "The {creature} slept next to {his} bed for a week.",
    ],
    [
      "Soon the {creature} was well and could run again.",
      "After many days, the {creature} jumped up and ran around the room.",
    ],
    [
      "It went back to the woods, but it came to see {hero} often.",
      "{Hero} was a little sad when it left, but {he} was proud, too.",
    ],
    ["{Hero} learned to take care of others.", "{Hero} learned that even small help is big."],
    endings,
  ],
  // The rainy day.
  [
    [
      "{Hero} and {friend} the {friendKind} wanted to go to the {where}.",
      "On {weekday}, {hero} wanted to play at the {where} with {friend} the {friendKind}.",
    ],
    [
      "But it began to rain, and it rained and rained.",
      "But the sky was gray, and soon the rain came down.",
    ],
    [
      '"What can we do now?" asked {friend}.',
      '"Oh no," said {hero}. "Now we have to stay at home."',
    ],
    [
      "Then {hero} had an idea. They took a blanket and built a tent in the house.",
      '"Let us make a boat out of paper!" said {hero}.',
      "{Hero} took out {his} {toy}, and they played with it on the floor.",
    ],
    [
      "They ate some {treat} and told funny stories.",
      "They laughed and forgot all about the rain.",
    ],
    [
      "Suddenly, the sun came out, and there was a rainbow!",
      "In the evening the rain stopped, and they saw a rainbow over the {home}.",
    ],
    [
      '"The rain was not so bad," said {friend}.',
      '"This was the best rainy day ever," said {hero}.',
    ],
    endings,
  ],
  // The broken cup.
  [
    [
      "One {weather} day, {hero} threw a ball in the kitchen " +
        "and broke the {color} cup of {his} mother.",
      "{Hero} ran through the house and broke {a color} plate.",
    ],
    [
      "{He} was afraid and hid the pieces {spot}.",
      '"Mother will be angry," {he} said. {He} put the pieces {spot}.',
    ],
    [
      "{Friend} the {friendKind} saw it.",
      "Then {friend} the {friendKind} came to play and saw that {hero} was sad.",
    ],
    [
      '"You should tell her the truth," said {friend}.',
      '"Tell your mother," said {friend}. "I will come with you."',
    ],
    [
      "{Hero} went to {his} mother and told her everything.",
      '"Mother, I broke it. I am sorry," said {hero}.',
    ],
    [
      "{His} mother was not angry. She hugged {him}.",
      '"Thank you for telling me," said {his} mother.',
    ],
    ["They cleaned the floor together.", "Then she gave {hero} and {friend} some {treat}."],
    ["{Hero} learned that it is best to tell the truth.", "{Hero} learned to be honest."],
    endings,
  ],
];
