//! Words and hashes as published, and buffers and bytes against features written out one by one.

use super::*;
use proptest::prelude::*;

fn featuriser(word_ngrams: usize, min_chars: usize, max_chars: usize) -> Featuriser {
    Featuriser::new(NgramShape {
        buckets: u32::MAX,
        dim: 1,
        word_ngrams,
        min_chars,
        max_chars,
    })
}

fn hash(feature: &str) -> u32 {
    fnv(FNV_START, feature.as_bytes()) % u32::MAX
}

#[test]
fn cuts_words_where_people_do() {
    let cut = |text| words(text).collect::<Vec<_>>();
    assert_eq!(
        cut("it's 'fine', isn’t it?"),
        ["it's", "'", "fine", "'", ",", "isn’t", "it", "?"]
    );
    assert_eq!(cut("東京 v2.0"), ["東京", "v2", ".", "0"]);
    assert_eq!(cut(" \u{0}\t"), Vec::<&str>::new());
    assert_eq!(cut("end'"), ["end", "'"]);
}

#[test]
fn hashes_as_published() {
    // Known answers of the 32-bit FNV-1a.
    assert_eq!(fnv(FNV_START, b""), 0x811c_9dc5);
    assert_eq!(fnv(FNV_START, b"a"), 0xe40c_292c);
    assert_eq!(fnv(FNV_START, b"foobar"), 0xbf9c_f968);
}

#[test]
fn words_and_runs_of_words() {
    assert_eq!(
        featuriser(2, 0, 0).buckets("not good"),
        [hash("wnot"), hash("wnot good"), hash("wgood")]
    );
}

#[test]
fn runs_of_characters_see_the_boundaries() {
    assert_eq!(
        featuriser(1, 3, 4).buckets("né"),
        [hash("wné"), hash("c<né"), hash("c<né>"), hash("cné>")]
    );
}

#[test]
fn no_words_no_buckets() {
    assert!(featuriser(2, 3, 5).buckets("  \t").is_empty());
    assert!(featuriser(2, 3, 5).buckets("").is_empty());
}

/// The features as the documentation has them, each a string of its own.
fn written_out(shape: NgramShape, text: &str) -> Vec<u32> {
    let words: Vec<&str> = words(text).collect();
    let mut features = Vec::new();
    for start in 0..words.len() {
        for count in 1..=shape.word_ngrams.min(words.len() - start) {
            features.push(format!("w{}", words[start..start + count].join(" ")));
        }
    }
    for word in words.iter().filter(|_| shape.max_chars > 0) {
        let chars: Vec<char> = format!("<{word}>").chars().collect();
        for start in 0..chars.len() {
            for count in shape.min_chars..=shape.max_chars.min(chars.len() - start) {
                let run: String = chars[start..start + count].iter().collect();
                features.push(format!("c{run}"));
            }
        }
    }
    let bucket = |feature: &String| fnv(FNV_START, feature.as_bytes()) % shape.buckets;
    features.iter().map(bucket).collect()
}

proptest! {
    #[test]
    fn buckets_are_those_of_the_features_written_out(
        texts in prop::collection::vec("(\\PC|[a-c'’é東 \t]){0,40}", 1..6),
        word_ngrams in 1usize..=5,
        (min_chars, max_chars) in (0usize..=6).prop_flat_map(|max| (max.min(1)..=max, Just(max))),
        buckets in prop::sample::select(vec![1, 7, 30_011, u32::MAX]),
    ) {
        let shape = NgramShape { buckets, dim: 1, word_ngrams, min_chars, max_chars };
        let featuriser = Featuriser::new(shape);
        let mut features = Features::default();
        for text in &texts {
            let expected = written_out(shape, text);
            prop_assert_eq!(featuriser.cut(text, &mut features), expected.as_slice());
            prop_assert_eq!(featuriser.buckets(text), expected);
        }
    }
}

#[test]
fn a_long_text_leaves_no_large_buffer_behind() {
    let featuriser = featuriser(2, 1, 6);
    let mut features = Features::default();
    let long = "overwhelming ".repeat(8_000);
    assert!(featuriser.cut(&long, &mut features).len() > 4 * KEPT_BUCKETS);
    assert_eq!(featuriser.cut("a", &mut features), featuriser.buckets("a"));
    assert!(features.buckets.capacity() <= 2 * KEPT_BUCKETS);
}
