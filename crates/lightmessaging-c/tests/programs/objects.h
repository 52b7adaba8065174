/* A property list of every type, with Foundation. */
#ifndef OBJECTS_H
#define OBJECTS_H

#include "check.h"
#include "plists.h"

#if LM_HAS_ARC
#define POOL_BEGIN @autoreleasepool {
#define POOL_END }
#else
#define POOL_BEGIN                                             \
    {                                                          \
        NSAutoreleasePool *pool_ = [[NSAutoreleasePool alloc] init];
#define POOL_END                                               \
        [pool_ release];                                       \
    }
#endif

static inline NSDictionary *everything(NSUInteger letters) {
    return [NSDictionary
        dictionaryWithObjectsAndKeys:
            [@"" stringByPaddingToLength:letters withString:@"n" startingAtIndex:0], @"note",
            @TEXT, @"text",
            [NSString stringWithUTF8String:WIDE], @"wide",
            [NSString stringWithUTF8String:LATIN], @"latin",
            [NSData dataWithBytes:DATA length:4], @"data",
            [NSNumber numberWithLongLong:NUMBER], @"number",
            [NSNumber numberWithLongLong:NEGATIVE], @"negative",
            [NSNumber numberWithDouble:REAL], @"real",
            [NSNumber numberWithBool:YES], @"yes",
            [NSNumber numberWithBool:NO], @"no",
            [NSDate dateWithTimeIntervalSinceReferenceDate:DATE], @"date",
            [NSArray arrayWithObjects:[NSNumber numberWithInt:1], [NSNumber numberWithInt:2],
                                      [NSDictionary dictionaryWithObject:[NSArray array]
                                                                  forKey:@"empty"],
                                      nil], @"list",
            nil];
}

/* How many letters a dictionary's note has; -1 if it is not everything(). */
static inline long letters_of(id is) {
    NSUInteger letters;
    if (![is isKindOfClass:[NSDictionary class]]) {
        return -1;
    }
    letters = [[is objectForKey:@"note"] length];
    /* Foundation compares truths and integers as numbers, so look at the ones that matter. */
    if (strcmp([[is objectForKey:@"yes"] objCType], [[NSNumber numberWithBool:YES] objCType]) != 0) {
        return -1;
    }
    return [is isEqual:everything(letters)] ? (long)letters : -1;
}

#endif
