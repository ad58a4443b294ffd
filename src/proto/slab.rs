//! A table whose keys go stale when their entry is removed, so that a late answer never reaches the wrong machine.

/// A key of a [`Slab`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    index: u32,
    generation: u32,
}

/// Entries with stable keys; constant-time lookup.
///
/// # Invariants
/// A key finds its entry until that is removed, and nothing afterwards.
#[derive(Debug)]
pub struct Slab<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Adds an entry.
    pub fn insert(&mut self, value: T) -> Key {
        let key = self.reserve();
        self.fill(key, value);
        key
    }

    /// A key whose entry comes later, with [`Slab::fill`]; until then it finds nothing. To be filled or removed.
    pub fn reserve(&mut self) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push((0, None));
            u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
        });
        let generation = self.entries.get(index as usize).map_or(0, |(generation, _)| *generation);
        Key { index, generation }
    }

    /// Gives a reserved key its entry.
    pub fn fill(&mut self, key: Key, value: T) {
        if let Some((generation, slot)) = self.entries.get_mut(key.index as usize)
            && *generation == key.generation
        {
            *slot = Some(value);
        }
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let (generation, slot) = self.entries.get_mut(key.index as usize)?;
        if *generation != key.generation {
            return None;
        }
        *generation = generation.wrapping_add(1);
        self.free.push(key.index);
        slot.take()
    }

    /// Looks an entry up.
    pub fn get(&self, key: Key) -> Option<&T> {
        self.entries.get(key.index as usize).filter(|(g, _)| *g == key.generation)?.1.as_ref()
    }

    /// Looks an entry up.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.entries.get_mut(key.index as usize).filter(|(g, _)| *g == key.generation)?.1.as_mut()
    }

    /// All entries with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.entries.iter().enumerate().filter_map(|(i, (generation, slot))| {
            let index = u32::try_from(i).ok()?;
            slot.as_ref().map(|value| (Key { index, generation: *generation }, value))
        })
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_keys_find_nothing() {
        let mut s = Slab::default();
        let a = s.insert(1);
        assert_eq!(s.remove(a), Some(1));
        let b = s.insert(2);
        assert_eq!(s.get(a), None);
        assert_eq!(s.remove(a), None);
        assert_eq!(s.get(b), Some(&2));
        assert_eq!((s.len(), s.iter().count()), (1, 1));
    }
}
