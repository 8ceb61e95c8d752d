//! A list that is built up to a limit. What follows is counted and skipped, so a long list takes no memory, and the
//! error can say how long it was.

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// At most `MAX` items of a list, and how many were sent.
#[derive(Debug)]
pub struct BoundedList<T, const MAX: usize> {
    /// The first items.
    pub items: Vec<T>,
    /// The number of items that were sent; more than `MAX` if some were skipped.
    pub received: usize,
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for BoundedList<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = BoundedList<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < MAX
            && let Some(item) = list.next_element()?
        {
            items.push(item);
        }
        let mut received = items.len();
        while items.len() == MAX && list.next_element::<IgnoredAny>()?.is_some() {
            received += 1;
        }
        Ok(BoundedList { items, received })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_built_up_to_its_limit_and_counted_to_its_end() {
        let read = |json: &str| {
            let list: BoundedList<u8, 3> = serde_json::from_str(json)?;
            Ok::<_, serde_json::Error>((list.items, list.received))
        };
        assert_eq!(read("[]").unwrap(), (vec![], 0));
        assert_eq!(read("[1,2,3]").unwrap(), (vec![1, 2, 3], 3));
        assert_eq!(read(r#"[1,2,3,{"any":["thing"]},5]"#).unwrap(), (vec![1, 2, 3], 5));
        assert!(read(r#"[1,"2"]"#).is_err() && read("[1,2,3,4").is_err() && read("{}").is_err());
    }
}
