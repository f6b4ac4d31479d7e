// SPDX-License-Identifier: GPL-2.0-only
//! A map in one piece of memory, for many small entries that stay for long.
//!
//! In: keys with values. Out: a key's value, without a search through all, or all in order. Pure. The nodes of a tree would lie
//! among what is soon freed, and keep its pages. A key that is less than others moves these, which are some kilobytes:
//! keys that mostly rise, as numbers of domains do, move none.

/// Values by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortedMap<K, V>(Vec<(K, V)>);

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SortedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map.0.shrink_to_fit();
        map
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for SortedMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K: Ord, V> SortedMap<K, V> {
    fn place(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.cmp(key))
    }

    /// For one more. By an eighth, not by as much again: what is to come is seldom as much as what is there.
    fn make_room(&mut self) {
        if self.0.len() == self.0.capacity() {
            self.0.reserve_exact(self.0.len() / 8 + 8);
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A key's value.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        let (_, value) = self.0.get(self.place(key).ok()?)?;
        Some(value)
    }

    /// Whether it is there.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        self.place(key).is_ok()
    }

    /// Gives a key another value, or its first.
    pub fn insert(&mut self, key: K, value: V) {
        match self.place(&key) {
            Ok(at) => {
                if let Some((_, kept)) = self.0.get_mut(at) {
                    *kept = value;
                }
            }
            Err(at) => {
                self.make_room();
                self.0.insert(at, (key, value));
            }
        }
    }

    /// Forgets a key.
    pub fn remove(&mut self, key: &K) {
        if let Ok(at) = self.place(key) {
            self.0.remove(at);
        }
    }

    /// Forgets all but those of which `stays` says so.
    pub fn retain(&mut self, mut stays: impl FnMut(&K) -> bool) {
        self.0.retain(|(key, _)| stays(key));
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// All in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_key_and_listed_in_order_of_keys() {
        let mut map = SortedMap::from([(7, 'a'), (3, 'b'), (5, 'c'), (3, 'd')]);
        let all = |map: &SortedMap<i32, char>| map.iter().copied().collect::<Vec<_>>();
        assert_eq!(all(&map), [(3, 'd'), (5, 'c'), (7, 'a')]);
        for (key, value) in [(9, None), (3, Some('d')), (4, None), (7, Some('a'))] {
            assert_eq!(map.get(&key).copied(), value);
            assert_eq!(map.contains(&key), value.is_some());
        }
        map.insert(5, 'e');
        map.insert(1, 'f');
        map.remove(&7);
        map.remove(&8);
        assert_eq!(all(&map), [(1, 'f'), (3, 'd'), (5, 'e')]);
        map.retain(|key| *key != 3);
        assert_eq!((all(&map), map.len()), (vec![(1, 'f'), (5, 'e')], 2));
        map.clear();
        assert!(map.is_empty());
    }
}
