//! Texts of which the model does not know most characters: they are stored like others, and flagged.

use crate::encoder::TOKENIZER;
use crate::parity::t5_folder;
use crate::support::test_service::{TestService, tally};
use lnsp_ingest::encoder::{ModelFiles, Tokenizer};
use serde_json::{Value, json};

const AMHARIC: &str = "እርሾ ስኳርን ወደ ካርቦን ዳይኦክሳይድ ስለሚቀይር ዳቦ ይነሳል።";

fn share(text: &str) -> Option<f32> {
    TOKENIZER.tokenize(text).unwrap().unread
}

#[test]
fn the_default_model_knows_the_letters_of_some_scripts_and_of_others_none() {
    for known in [
        "Bread rises because yeast turns sugar into carbon dioxide.",
        "Bread 🍞 rises.",
        "Der Strom fließt durch den Leiter, und der Widerstand erzeugt Wärme.",
        "Дрожжи превращают сахар в углекислый газ, поэтому тесто поднимается.",
        "Η ζύμη φουσκώνει επειδή η μαγιά μετατρέπει τη ζάχαρη.",
        "الخَمِيرَةُ تُحَوِّلُ السُّكَّرَ إِلَى ثَانِي أُكْسِيدِ الْكَرْبُونِ",
        "खमीर चीनी को कार्बन डाइऑक्साइड में बदल देता है।",
        "빵은 효모가 설탕을 이산화탄소로 바꾸기 때문에 부풀어 오른다.",
        "x".repeat(100).as_str(),
        "",
        " \n\u{3000}",
    ] {
        assert_eq!(share(known), None, "{known}");
    }
    for (unknown, least) in [
        (AMHARIC, 1.0),
        // The mark at its end is removed, and so is of no token.
        ("ขนมปังพองตัวเพราะยีสต์เปลี่ยนน้ำตาลเป็นคาร์บอนไดออกไซด์", 0.98),
        ("ఈస్ట్ చక్కెరను కార్బన్ డయాక్సైడ్‌గా మార్చడం వల్ల రొట్టె ఉబ్బుతుంది.", 0.9),
        ("面包会发酵是因为酵母把糖变成二氧化碳。光合作用把光能转化为化学能。", 0.6),
        ("🦉🦉 ✅", 1.0),
        ("x".repeat(101).as_str(), 1.0),
        // The tokenizer removes all of it.
        ("\u{200b}\u{feff}\u{1}", 1.0),
    ] {
        let share = share(unknown).unwrap_or_default();
        assert!((least..=1.0).contains(&share), "{share}: {unknown}");
    }
}

#[test]
fn one_half_is_not_flagged_and_a_character_more_is() {
    let (blob, word) = ("y".repeat(200), "bread ".repeat(40));
    assert_eq!(word.replace(' ', "").len(), blob.len());
    assert_eq!(share(&format!("{blob} {word}")), None);
    assert_eq!(share(&format!("{word}{blob}")), None);
    assert_eq!(share(&format!("{blob}y {word}")), Some(201.0 / 401.0));
}

/// The end of a long text is not read at all, which `truncated` says.
#[test]
fn the_share_is_that_of_the_part_that_is_read() {
    let (amharic, english) = ("እ ".repeat(300), "bread ".repeat(300));
    let beginning = TOKENIZER.tokenize(&format!("{amharic}{}", english.repeat(9))).unwrap();
    assert_eq!((beginning.truncated, beginning.unread), (true, Some(1.0)));
    let end = TOKENIZER.tokenize(&format!("{english}{}", amharic.repeat(9))).unwrap();
    assert_eq!((end.truncated, end.unread), (true, None));
}

/// SentencePiece names the unknown token by its number, and gives it to letters, not to words.
#[test]
fn a_tokenizer_of_another_kind_tells_it_too() {
    let tokenizer = Tokenizer::load(&ModelFiles::open(&t5_folder("plain")).unwrap()).unwrap();
    let share = |text: &str| tokenizer.tokenize(text).unwrap().unread;
    assert_eq!(share("the rest is restful"), None);
    assert_eq!(share("the rest ๆๆ is"), None);
    assert_eq!(share("the ๆๆๆๆ"), Some(4.0 / 7.0));
}

#[actix_web::test]
async fn such_a_text_is_stored_and_its_result_says_so() {
    let service = TestService::scripted().await;
    let counted = async || {
        let response = crate::support::test_service::client().get(format!("{}/metrics", service.url)).send();
        let text = response.await.unwrap().text().await.unwrap();
        let line = text.lines().find(|line| line.starts_with("lnsp_embed_unread_total"));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
    };
    let before = counted().await;
    let (blob, english) = ("y".repeat(200), "Bread rises because yeast turns sugar into gas.");
    let chunks = json!({"chunks": [
        {"id": "amharic", "text": AMHARIC}, {"id": "english", "text": english},
        {"id": "mixed", "text": format!("{blob} bread bread bread bread")},
    ]});
    let (status, answer) = service.post("/ingest", chunks.to_string()).await;
    assert_eq!((status, &answer["successful"]), (200, &json!(3)), "{answer}");
    let unread = |place: usize| answer["results"][place].get("unread");
    assert_eq!((unread(0), unread(1)), (Some(&json!(1.0)), None));
    assert_eq!(unread(2), Some(&json!(0.909)), "200 of 220, in thousandths");
    assert!(counted().await >= before + 2);

    let line = |id: &str, text: &str| json!({"id": id, "text": text}).to_string() + "\n";
    let lines =
        service.stream(line("again", &AMHARIC.repeat(2)) + &line("read", "Tea is steeped in water.")).await;
    assert_eq!(tally(&lines), (2, 0, 0));
    let unread =
        |id: &str| -> Option<&Value> { lines.iter().find(|line| line["id"] == id).unwrap().get("unread") };
    assert_eq!((unread("again"), unread("read")), (Some(&json!(1.0)), None));
    assert_eq!(service.stored().await, 5);

    // The row has it, so the answer to a repetition does.
    let (_, again) = service.post("/ingest", chunks.to_string()).await;
    let unread = |place: usize| (&again["results"][place]["status"], again["results"][place].get("unread"));
    let duplicate = json!("duplicate");
    assert_eq!((unread(0), unread(1)), ((&duplicate, Some(&json!(1.0))), (&duplicate, None)));
    assert_eq!(unread(2), (&duplicate, Some(&json!(0.909))));
    let flagged = async || service.database.number("SELECT count(*) FROM chunks WHERE unread > 0.5").await;
    assert_eq!(flagged().await, 3);
    // It goes with the text.
    let replacing =
        json!({"chunks": [{"id": "amharic", "text": english}], "on_conflict": "replace"}).to_string();
    let (_, replaced) = service.post("/ingest", replacing).await;
    assert_eq!((&replaced["results"][0]["status"], flagged().await), (&json!("replaced"), 2), "{replaced}");
    assert_eq!(replaced["results"][0].get("unread"), None);
    service.stop().await;
}
