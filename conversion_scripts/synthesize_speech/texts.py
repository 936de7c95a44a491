"""Words for the synthetic voices: small lists written for this project, and pseudo-words that cover all pairs of
phonemes."""

from __future__ import annotations

import random

# espeak-ng voice -> everyday words. The lists aim at the sounds of the language, not at meaning.
WORDS = {
    "en-us": "papa mama people maybe about open happy problem remember five very over above river family photo "
    "thank this mother think both these see so city easy pleasure measure fish show much church judge age you few "
    "blue moon good book boy voice now out house how down high my time light away day take name go home no boat "
    "walk call thought hot stop father car start hard bird word her first cup run love man back had apple bed red "
    "head sit big little winter letter water well while we want was what where yes young year long sing king queen",
    "en": "morning paper summer simple beautiful moment member probably before bring bread brother number "
    "february evening phone different wife leave never another though through three health usually vision shoe "
    "short which picture village large huge music juice room look put join noise town sound night white rain wait "
    "road snow court saw not got want park heart heard work mother bus cat hand pen said milk film tea green window",
    "de": "mama papa abend baum blume bitte immer kommen zimmer pferd apfel kopf fenster vogel viel wasser warm zwei "
    "schöne grüße müde über früh hören schön mögen böse öffnen ich mich nicht licht buch machen nach acht tag gut "
    "stadt straße sprechen zehn zeit katze jung jahr heute deutsch neu leute mein klein auge haus laufen lampe rot "
    "gross mond und unter mutter brot hand kinder singen lang sehen leben gehen haben bleiben oben problem moment",
    "fr": "bonjour maman papa pomme belle bébé problème ombre jambe fenêtre vivre fille famille vous rouge jour "
    "chaque chien chat ville rue tu une lune du bleu deux peur cœur sœur homme eau beau chaud rose mot bon monde "
    "pont vent enfant temps grand main pain vin un brun lundi petit oui nuit huit soir roi voir merci mer père mère "
    "frère table porte lire livre dire ami il elle nous avec possible important moment simplement maintenant",
    "es": "mamá papá amigo bueno pueblo bien embargo hombre siempre problema vamos vivir beber fuego familia gente "
    "joven jueves mucho noche leche calle lluvia yo ayer perro rojo guerra señor mañana niño uno luna mundo gusto "
    "agua cuando cinco gracias zapato hacer dos todo nada tarde ahora hora rosa claro blanco grande tiempo puerta",
    "it": "mamma papà bambino bello buono problema campo sempre tempo uomo amico vivere favore famiglia figlio gli "
    "gnocchi ogni bagno ragazzo pizza zio cielo ciao cento gente giorno oggi scena pesce scuola acqua quando cinque "
    "rosso terra sera mare luna uno tutto molto poco grande piccolo notte giallo verde rompere ombra abbastanza",
    "ru": "мама папа вода время человек мир большой маленький хорошо быть работа любовь дом город улица рука нога "
    "утро день ночь солнце небо мы вы они жизнь жена шум шесть щука чай час цвет царь это этот ещё ёлка юг люблю "
    "январь яблоко быстро рыба сын ты мыло бабушка дедушка пять семь восемь друг река зима лето книга фильм вот",
    "pl": "mama tata dobry pan bardzo proszę pomoc woda człowiek czas życie szkoła książka dziękuję dzień noc być "
    "miasto ulica ręka noga rano jeszcze zawsze wszystko piękny mały duży pięć sześć biały czerwony morze brat",
    "pt-br": "mamãe papai amigo bom homem bem problema sempre tempo vida viver família filho mulher manhã amanhã "
    "não coração pão mãe gente jogo hoje chuva chave noite tarde água quando cinco rosa carro rua lua mundo um tudo",
    "nl": "mama papa boom blauw morgen komen kamer paard appel venster vogel veel water warm twee schoon groot muziek "
    "huis buiten leuk deur neus goed boek groen nacht licht dag straat stad zee zien jong jaar mijn tijd klein oog",
    "sv": "mamma pappa blomma bil problem komma sommar hem öppna äpple fönster fågel vatten varm två sjö skön kärlek "
    "hus ljus brev liv över snö ögon gå måne båt god dag natt kött tjugo kind röd grön blå barn flicka pojke",
    "tr": "anne baba merhaba bir iyi problem zaman güzel büyük küçük köpek göz gün su ev araba çocuk çok kitap okul "
    "şimdi şehir yol yıl ışık kız kış ben sen biz var yok hava para müzik pembe mavi beyaz elma ağaç dağ",
    "ja": "ありがとう こんにちは わたし あなた たべる のむ みる きく はなす ともだち かぞく はは ちち いぬ ねこ さかな "
    "みず ひと まち うみ やま かわ そら ほん がっこう でんしゃ くるま ふね びょうき ぼうし ばんごう ぱん ぺん ぷろ "
    "まめ むすめ もも みみ しんぶん じかん つき よる ふゆ ゆき りんご れいぞうこ らいねん わらう うた おと えいが "
    "あおい",
    "cmn-latn-pinyin": "ni3hao3 xie4xie5 wo3men5 ta1men5 peng2you3 ma1ma5 ba4ba5 bei3jing1 pu3tong1 ming2tian1 "
    "mei2you3 fang2zi5 fei1chang2 fu4mu3 da4jia1 dian4nao3 tian1qi4 nü3er2 nian2 lao3shi1 lü4se4 gao1xing4 gong1zuo4 "
    "kan4shu1 he1shui3 hen3hao3 jia1 jiu3 qing3 qu4 xue2xiao4 xiang3 zhong1guo2 zhe4 che1 chi1fan4 shi2jian1 "
    "sheng1huo2 ren2 ri4 zai4 zuo4 cong2 si4 san1 wan3shang5 wen4ti2 yi1 yu3yan2 yuan4yi4 bo1 po2 mo2 fo2 bu4 dui4",
}  # fmt: skip
_ONSETS = "p b m f v t d n l s z k g r w h j sh ch th br pl fr sp st bl gr tr".split() + ["", ""]
_VOWELS = "a e i o u ee oo ah ai ou".split()
_CODAS = ["", "", "", "p", "b", "m", "f", "v", "n", "t", "l", "s", "k", "r", "mp", "sh"]
_LATIN = ("en-us", "en", "de", "es", "it", "nl", "pt-br", "fr", "sv", "tr", "pl")


def made_up_word(rng: random.Random) -> str:
    """A pronounceable word of one to three syllables; lip sounds come more often than in real words."""
    syllables = []
    for _ in range(rng.choice((1, 2, 2, 3))):
        onset = rng.choice("pbmfv") if rng.random() < 0.3 else rng.choice(_ONSETS)
        syllables.append(onset + rng.choice(_VOWELS) + rng.choice(_CODAS))
    return "".join(syllables)


def sentence(rng: random.Random, voice: str) -> str:
    """Three to fourteen words with the punctuation that makes espeak-ng pause and change its melody."""
    words = WORDS[voice].split()
    chosen = []
    for _ in range(rng.randint(3, 14)):
        made_up = voice in _LATIN and rng.random() < 0.3
        chosen.append(made_up_word(rng) if made_up else rng.choice(words))
        if rng.random() < 0.1:
            chosen[-1] += ","
    return " ".join(chosen) + rng.choice((".", ".", ".", "!", "?"))
